"""The licences of direct dependencies, as their metadata state them: writes the table of SECURITY.md.

python scripts/licences.py        # packages that are not installed keep their rows
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE, BEGIN, END = ROOT / "SECURITY.md", "<!-- licences: begin -->\n", "<!-- licences: end -->\n"
FAMILIES = ("MIT-CMU", "MIT", "BSD", "Apache", "MPL", "Python Software Foundation", "ISC", "Zlib", "CC0", "BSL")


def dependencies() -> dict[str, str]:
    """What brings each direct dependency, by its name: `pip install pyro-vae`, or extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found: dict[str, list[str]] = {}
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for line in lines:
            name = re.split(r"[\s<>=!~\[;]", line, maxsplit=1)[0]
            found.setdefault(name, []).append(extra)
    return {name: "every install" if "" in extras else ", ".join(extras) for name, extras in found.items()}


def licence(name: str) -> str | None:
    """The licence of a package in its metadata: an expression, a classifier or a line; None if it is not installed."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return None
    named = [each.split(" :: ")[-1] for each in about.get_all("Classifier") or [] if each.startswith("License ::")]
    named = [each for each in named if families(each)]
    line = str(about["License"] or "").strip().partition("\n")[0]
    return str(about["License-Expression"] or "") or ", ".join(named) or line


def families(text: str) -> set[str]:
    """The licences that a text names, without their versions.

    >>> sorted(families("BSD-3-Clause AND MIT"))
    ['BSD', 'MIT']
    """
    rest, found = text, set()
    for family in FAMILIES:
        if family.lower() in rest.lower():
            found.add(family)
            rest = re.sub(re.escape(family), "", rest, flags=re.IGNORECASE)
    return found


def rows() -> dict[str, str]:
    """The licences in the table, by package."""
    table = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    return dict(re.findall(r"^\| `([\w.-]+)` \| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE))


def table() -> str:
    """The table as it should be."""
    kept, lines = rows(), ["| package | comes with | licence |", "|---|---|---|"]
    for name, extras in sorted(dependencies().items(), key=lambda pair: pair[0].lower()):
        lines.append(f"| `{name}` | {extras} | {licence(name) or kept.get(name, 'unknown: install it')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
