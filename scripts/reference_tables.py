"""Writes docs/reference.md, the tables of every name and setting, from the registries.

`python scripts/reference_tables.py`; a test compares the page with what this script writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pyro_vae.comparison.fit_methods import FIT_METHODS
from pyro_vae.comparison.models_by_name import MODELS
from pyro_vae.data.named_datasets import NAMED_DATASETS
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS
from pyro_vae.inference.objectives.objectives_by_name import OBJECTIVES
from pyro_vae.inference.svi.train_config import OPTIMIZERS, SCHEDULES
from pyro_vae.option_registry import Entry
from pyro_vae.options import Option
from pyro_vae.registry import GUIDES, LIKELIHOODS, NETWORKS, PRIORS
from pyro_vae.workflows.fit_settings import fit_options

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
INTRODUCTION = """# Names and settings

Every name that the command line and `config.toml` know, and every setting of `pyro-vae fit`.
The tables are written by `scripts/reference_tables.py` from the registries that the program itself reads.
"""
SECTIONS: tuple[tuple[str, Mapping[str, Entry]], ...] = (
    ("Priors (`--prior`)", PRIORS),
    ("Likelihoods (`--likelihood`)", LIKELIHOODS),
    ("Guides (`--guide`)", GUIDES),
    ("Networks (`--network`)", NETWORKS),
    ("Objectives (`--loss`)", OBJECTIVES),
    ("Optimizers (`--optimizer`)", OPTIMIZERS),
    ("Learning-rate schedules (`--schedule`)", SCHEDULES),
    ("Models of a comparison (`compare --model`)", MODELS),
    ("Fit methods (`compare --fit-method`)", FIT_METHODS),
    ("Estimators of log p(x) (`evaluate --method`)", EVIDENCE_METHODS),
    ("Data sets (`--data`)", NAMED_DATASETS),
)


def page() -> str:
    """The whole page."""
    settings: dict[str, list[Option]] = {}
    for option in fit_options().values():
        settings.setdefault(option.group, []).append(option)
    parts = [INTRODUCTION]
    parts += [f"## {title}\n\n{entries_table(entries.values())}" for title, entries in SECTIONS]
    parts += [
        f"## {group} settings of `pyro-vae fit`\n\n{options_table(options)}" for group, options in settings.items()
    ]
    return "\n".join(parts)


def entries_table(entries: Iterable[Entry]) -> str:
    """A row for each entry: its name, what makes it, its own options with their defaults, a few words."""
    rows = []
    for entry in entries:
        options = ", ".join(f"`{option.flag}`{_default(option)}" for option in entry.options)
        fixed = ", ".join(f"{name}={value!r}" for name, value in entry.fixed.items() if name != "name")
        made = f"`{entry.path.replace(':', '.')}`" + (f" with `{fixed}`" if fixed else "")
        rows.append((f"`{entry.name}`", made, options, entry.help))
    return _table(("name", "made by", "own options (default)", ""), rows)


def options_table(options: Iterable[Option]) -> str:
    """A row for each setting: its flag, default, choices and help."""
    rows = [
        (f"`{option.flag}`", _as_text(option.default), ", ".join(f"`{name}`" for name in option.choices), option.help)
        for option in options
    ]
    return _table(("setting", "default", "choices", ""), rows)


def _default(option: Option) -> str:
    return "" if option.default is None else f" ({_as_text(option.default)})"


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
