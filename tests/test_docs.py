"""The documentation is whole: public names are in the API pages, pages in the menu, pictures in the gallery."""

import re
from importlib import import_module
from inspect import ismodule
from pathlib import Path

import pytest

import pyro_vae as pv

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
DOCUMENTED = re.findall(r"^::: (\S+)", "".join(page.read_text() for page in (DOCS / "api").glob("*.md")), re.MULTILINE)


@pytest.mark.parametrize("name", pv.__all__)
def test_public_name_is_in_the_api_pages(name):
    found = getattr(pv, name)
    path = found.__name__ if ismodule(found) else f"{found.__module__}.{found.__qualname__}"
    assert path in set(DOCUMENTED), f"a page of docs/api lacks ::: {path}"


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


def test_the_page_of_names_and_settings_is_what_the_registries_say():
    """A new part or setting documents itself: `python scripts/reference_tables.py` writes the page."""
    from reference_tables import PAGE, page

    assert PAGE.read_text() == page()
