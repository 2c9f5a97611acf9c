"""What a newcomer finds beside the code: a licence, how to contribute and cite, and one version everywhere."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

import pyro_vae as pv

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    ".pre-commit-config.yaml",
    ".github/workflows/ci.yml",
    "docs/versioning.md",
)
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of apache.org's LICENSE-2.0.txt
README_WORDS = 900


def words_of(path):
    return (ROOT / path).read_text().split()


@pytest.mark.parametrize("name", FILES)
def test_file_is_there(name):
    assert len(words_of(name)) > 20


def test_licence_is_the_whole_apache_2():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]


def test_version_is_written_once():
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pyro_vae.__version__"}
    text = (ROOT / "pyro_vae/__init__.py").read_text()  # setuptools reads a literal from the text and imports nothing
    assert re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE) == [pv.__version__]


def test_command_package_and_metadata_agree_on_the_version():
    shown = subprocess.run(
        [sys.executable, "-m", "pyro_vae", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown[-1] == pv.__version__ == version("pyro-vae") == metadata("pyro-vae")["Version"]


def test_citation_has_the_version_and_names_nobody():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == pv.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "The pyro_vae developers"}]
    assert citation["title"]
    assert citation["message"]


def test_changelog_has_sections_and_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[:2] == ["Unreleased", pv.__version__]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_readme_is_short_and_has_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < README_WORDS
    assert len(re.findall(r"^pip install -c constraints\.txt ", text, re.MULTILINE)) == 2  # .ci/run runs these
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text()):
        name, _, anchor = target.partition("#")
        assert (ROOT / (name or page)).is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / (name or page)).read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_workflow_runs_the_whole_check_and_the_test_command_on_later_pythons():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert [step["run"] for step in jobs["everything"]["steps"] if "run" in step] == [".ci/run"]
    pythons = jobs["tests"]["strategy"]["matrix"]["python"]
    named = {f"Programming Language :: Python :: {python}" for python in ["3.11", *pythons]}
    assert named <= set(PROJECT["project"]["classifiers"])
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_hooks_are_those_of_the_whole_check():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (local,) = [repo["hooks"] for repo in hooks if repo["repo"] == "local"]
    checks = (ROOT / ".ci/run").read_text()
    for hook in local:
        assert " ".join(word for word in hook["entry"].split() if not word.startswith("--")) in checks


def test_pages_may_not_connect():  # what SECURITY.md promises
    folder = ROOT / "pyro_vae/report/page"
    base, *pages = [(folder / name).read_text() for name in ("base.html", "report.html", "check.html")]
    assert "default-src 'none'" in base
    assert not re.search(r"connect-src|https?://", base)
    assert all(page.startswith('{% extends "base.html" %}') and "http-equiv" not in page for page in pages)


def calls_in_the_locales_encoding(path):
    """The lines of a file that open text without naming an encoding."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [value.value for value in node.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        if name in ("read_text", "write_text"):
            if len(node.args) < (1 if name == "read_text" else 2):
                yield node.lineno
        elif name in ("open", "fdopen"):
            is_module = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("Image", "os")
            is_binary = any("b" in text and len(text) < 4 for text in texts)
            if (
                not is_binary
                and not is_module
                and not (name == "open" and not isinstance(node.func, ast.Name) and not texts)
            ):
                yield node.lineno


def test_text_files_are_opened_as_utf_8_everywhere():
    files = [path for folder in ("pyro_vae", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in calls_in_the_locales_encoding(path)]
    assert found == []


TEXT_CALLS = {
    'path.read_text()': 1, 'path.read_text("utf-8")': 0, 'path.read_text(encoding="utf-8")': 0,
    'path.write_text("x")': 1, 'path.write_text("x", encoding="utf-8")': 0, 'open(name)': 1, 'open(name, "w")': 1,
    'open(name, "rb")': 0, 'path.open("a")': 1, 'path.open("wb+")': 0, 'path.open("w", encoding="utf-8")': 0,
}  # fmt: skip


@pytest.mark.parametrize("call", TEXT_CALLS)
def test_calls_without_an_encoding_are_found(call, tmp_path):
    (tmp_path / "a.py").write_text(call)
    assert len(list(calls_in_the_locales_encoding(tmp_path / "a.py"))) == TEXT_CALLS[call]


def test_licences_of_direct_dependencies_are_those_of_their_metadata(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import licences

    rows, expected = licences.rows(), licences.dependencies()
    assert list(rows) == sorted(expected, key=str.lower)
    for name, text in rows.items():
        assert licences.families(text), f"{name}: {text}"
        installed = licences.licence(name)
        assert installed is None or licences.families(installed) == licences.families(text), name
