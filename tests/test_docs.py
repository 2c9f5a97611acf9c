"""The documentation is whole: public names are in the API pages, pages in the menu, pictures in the gallery."""

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from inspect import ismodule
from pathlib import Path

import pytest

import pyro_vae as pv

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
DOCUMENTED = re.findall(r"^::: (\S+)", "".join(page.read_text() for page in (DOCS / "api").glob("*.md")), re.MULTILINE)


PARTS = ("flows", "guides", "likelihoods", "nets", "priors")  # modules that a page documents whole
OTHERS = ("data", "distributed", "errors", "typing")
NAMESPACES = {
    "": pv,
    "diagnostics": pv.diagnostics,
    "models": pv.models,
    "plots": pv.plots,
    "sklearn": pv.sklearn,
    "studies": pv.studies,
}
PUBLIC = [(space, name) for space, module in NAMESPACES.items() for name in module.__all__ if name not in OTHERS]


@pytest.mark.parametrize(("space", "name"), [pair for pair in PUBLIC if pair[1] not in NAMESPACES])
def test_public_name_is_in_the_api_pages(space, name):
    found = getattr(NAMESPACES[space], name)
    path = found.__name__ if ismodule(found) else f"{found.__module__}.{found.__qualname__}"
    assert path in set(DOCUMENTED), f"a page of docs/api lacks ::: {path}"


@pytest.mark.parametrize(("space", "name"), PUBLIC)
def test_a_public_name_means_one_thing(space, name):
    """Neither a submodule of its package has its name, nor another public name that differs in case alone."""
    package = f"pyro_vae.{space}".rstrip(".")
    if not ismodule(getattr(NAMESPACES[space], name)):
        assert find_spec(f"{package}.{name}") is None
    assert sum(other.lower() == name.lower() for _, other in PUBLIC) == (2 if name == "score" else 1)


def test_the_stub_names_what_the_package_has():
    """Type checkers read `__init__.pyi`, and so does the package itself; about 45 names, and modules."""
    for module in NAMESPACES.values():
        stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text())
        imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert imported == set(module.__all__)
    assert len([name for name in pv.__all__ if not ismodule(getattr(pv, name))]) <= 49


@pytest.mark.parametrize("path", DOCUMENTED)
def test_what_the_api_pages_name_exists_and_once(path):
    owner, _, name = path.rpartition(".")
    assert hasattr(import_module(owner), name)
    assert DOCUMENTED.count(path) == 1


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert sorted(re.findall(r"[\w/-]+\.md", menu)) == PAGES


def test_every_picture_is_in_the_gallery():
    shown = re.findall(r"!\[[^]]+\]\(images/(\S+)\)", (DOCS / "gallery.md").read_text())
    assert sorted(shown) == sorted(picture.name for picture in (DOCS / "images").iterdir())


def test_the_page_of_names_and_settings_is_what_the_registries_say(monkeypatch):
    """A new part or setting documents itself: `python scripts/reference_tables.py` writes the page."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from reference_tables import PAGE, page

    assert PAGE.read_text() == page()
