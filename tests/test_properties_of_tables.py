"""Random text tables: columns of random kinds come back as they were written, and no text ends in another error."""

import csv
import io
import warnings
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_examples import attempt, examples

import pyro_vae as pv
from pyro_vae.data.formula_quotes import QUOTED
from pyro_vae.data.read_csv import MISSING

NUMBERS = ("real", "positive", "bounded", "count", "integer")
LEVELS = {"binary": 2, "categorical": 3, "ordinal": 3, "label": 3}  # how many
KINDS = (*NUMBERS, *LEVELS, "datetime", "id")
CELLS = {
    "real": st.floats(-1e150, 1e150).map(repr),  # above it squares are infinite
    "positive": st.floats(0, 1e150, exclude_min=True).map(repr),
    "bounded": st.floats(0, 1).map(repr),
    "count": st.integers(0, 10**6).map(str),
    "integer": st.integers(-(2**53), 2**53).map(str),
    "datetime": st.dates().map(str),
}


def is_kept(word):
    """Whether a cell of text stays what it is: no blanks around it, no word for a missing value, no quoted formula."""
    return word == word.strip() and word.lower() not in MISSING and not QUOTED.match(word)


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=6).filter(is_kept)
LINES = st.text(' abc01.,;:"\n', min_size=1, max_size=6).filter(is_kept)


@dataclass(frozen=True)
class Written:
    """A column as it is written: its name, its kind as a user says it, and its cells, empty where one is missing."""

    name: str
    kind: str
    cells: list[str]


@st.composite
def columns(draw, name, num_rows, kinds):
    kind = draw(st.sampled_from(kinds))
    if kind in LEVELS:
        word = (WORDS | LINES).filter(lambda each: "<" not in each or kind != "ordinal")
        levels = draw(st.lists(word, min_size=LEVELS[kind], max_size=LEVELS[kind], unique=True))
        cells = st.sampled_from(levels)
        said = f"{kind}:{'<'.join(levels)}" if kind == "ordinal" else kind
    else:
        cells, said = CELLS.get(kind, WORDS), kind
    if draw(st.booleans()):
        cells = cells | st.just("")
    return Written(name, said, draw(st.lists(cells, min_size=num_rows, max_size=num_rows)))


@st.composite
def tables(draw):
    """A table of some columns of any kinds, one of them real, at most one of labels."""
    num_rows = draw(st.integers(10, 14))
    names = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True).filter(lambda each: "last value" not in each))
    table = [Written("last value", "real", [str(row / 4) for row in range(num_rows)])]
    for name in names:
        has_label = any(column.kind == "label" for column in table)
        table.append(draw(columns(name, num_rows, [kind for kind in KINDS if kind != "label" or not has_label])))
    return draw(st.permutations(table))


def text_of(table, separator):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator)
    writer.writerow([column.name for column in table])
    writer.writerows(zip(*(column.cells for column in table), strict=True))
    return file.getvalue()


def load(path, text, **settings):
    path.write_text(text, encoding="utf-8", newline="")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pv.load_data(path, **settings)


def same(found, written):
    """Whether a value is the one that was written: the same text, or the same number, or both missing."""
    if written == "":
        return found is None or found != found or found == ""
    try:
        return str(found) == written or float(found) == float(written)
    except (TypeError, ValueError):
        return False


def assert_comes_back(data, table):
    for split in (data.train, data.valid, data.test):
        frame, rows = data.schema.decode(split.stored.numpy(), rounded=False), split.index.tolist()
        for column in table:
            written = [column.cells[row] for row in rows]
            kind, levels = data.schema[column.name].kind, data.schema[column.name].levels
            if kind == "id":
                found = split.ids[column.name]
            elif kind == "label":
                found = [label_of(data, label) for label in split.labels.tolist()]
            elif kind == "ignored":  # left out, and said
                continue
            else:
                found = frame[column.name]
            pairs = [pair for pair in zip(found, written, strict=True) if is_known(pair[1], levels)]
            assert all(same(*pair) for pair in pairs), (column.name, kind, pairs)


def is_known(written, levels):
    """Whether a cell can come back: a level that no training row has does not."""
    return not levels or written == "" or any(same(level, written) for level in levels)


def label_of(data, label):
    return None if label < 0 else data.label_levels[label] if data.label_levels else label


@examples(8)
@given(tables(), st.sampled_from(",;\t|"))
def test_columns_of_said_kinds_come_back_as_they_were_written(folder, table, separator):
    kinds = {column.name: column.kind for column in table}
    data, refused = attempt(load, folder / "said.csv", text_of(table, separator), columns=kinds, header="yes")
    if data is None:
        assert refusable(table), refused
        return
    assert {column.name: column.kind for column in data.schema} == {
        name: kind.partition(":")[0] for name, kind in kinds.items()
    }
    assert_comes_back(data, table)


def refusable(table):
    """Whether a table may be refused: in ten rows a column may lack a value, or one of two levels."""
    return any(column.kind == "binary" or "" in column.cells for column in table)


@examples(8)
@given(tables(), st.sampled_from(",;\t|"))
def test_values_come_back_where_kinds_are_inferred(folder, table, separator):
    """Whatever a column is taken for; one that is left out is no value."""
    data, refused = attempt(load, folder / "inferred.csv", text_of(table, separator), header="yes")
    if data is None:
        assert any("" in column.cells or column.kind not in NUMBERS for column in table), refused
        return
    assert_comes_back(data, table)


PIECES = st.sampled_from(
    [*",;\t|\"\n\r\0'=-. ", "\r\n", '""', "a", "é", "\ufeff", "0", "07", "1e999", "-1.5", "1,5", "NA", "2024-02-30"]
)


@st.composite
def damaged_tables(draw):
    """The text of a table with pieces put in and characters taken out."""
    text = text_of(draw(tables()), draw(st.sampled_from(",;\t")))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(PIECES | st.just("")) + text[place + draw(st.integers(0, 3)) :]
    return text


@examples(30)
@given(damaged_tables() | st.lists(PIECES, max_size=60).map("".join), st.sampled_from(["auto", "yes", "no"]))
def test_any_text_is_a_table_or_refused(folder, text, header):
    data, refused = attempt(load, folder / "any.csv", text, header=header)
    if data is None:
        assert "any.csv" in refused or "column" in refused
        return
    assert len(data.train) + len(data.valid) + len(data.test) >= 10
    assert all(not split.stored.isinf().any() for split in (data.train, data.valid, data.test))


@examples(15)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(folder, content):
    (folder / "bytes.csv").write_bytes(content)
    data, refused = attempt(pv.load_data, folder / "bytes.csv")
    assert refused if data is None else len(data.train)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")
