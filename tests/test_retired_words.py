"""Words that the package no longer uses, and the words of the field that took their place (retired_words.txt).

Identifiers are looked for as whole words, phrases without regard to case. The history in docs/design.md and the
changelog name what was renamed.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = (Path(__file__).parent / "retired_words.txt").read_text().splitlines()
PAIRS = [tuple(line.split(" -> ", 1)) for line in LINES if line and not line.startswith("#")]
SUFFIXES = {".py", ".md", ".html", ".js", ".css", ".toml", ".yml"}


def text_of(path):
    text = path.read_text()
    return text.split("\n## History")[0] if path.name == "design.md" else text


@pytest.fixture(scope="module")
def texts():
    files = [
        path
        for folder in ("pyro_vae", "scripts", "docs", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES and "fixtures" not in path.parts
    ]
    own = {"test_retired_words.py", "constructor_args.py"}  # the latter reads the old names in files of 0.1.0
    return {path: text_of(path) for path in [*files, ROOT / "README.md"] if path.name not in own}


def test_the_list_is_read():
    assert len(PAIRS) > 100
    assert all(old and new for old, new in PAIRS)
    assert len({old for old, _ in PAIRS}) == len(PAIRS)


def test_no_retired_word_is_used(texts):
    is_identifier = re.compile(r"\w+")
    names = [old for old, _ in PAIRS if is_identifier.fullmatch(old)]
    phrases = [old for old, _ in PAIRS if not is_identifier.fullmatch(old)]
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    phrase = re.compile(
        rf"\b({'|'.join(re.escape(p).replace(chr(92) + ' ', chr(92) + 's+') for p in phrases)})\b", re.IGNORECASE
    )
    found = {
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path, text in texts.items()
        for match in (*pattern.finditer(text), *phrase.finditer(text))
    }
    assert not sorted(found)
