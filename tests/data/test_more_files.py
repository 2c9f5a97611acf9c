"""Workbooks, files of Arrow's, folders of Parquet, compressed text: their rows, what is said, and what is refused."""

import bz2
import datetime
import gzip
import io
import lzma
import zipfile

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae.data.read_files import read_file

pandas = pytest.importorskip("pandas")
ROWS = np.round(np.random.default_rng(0).normal(5, 2, (12, 2)), 3).tolist()
FRAME = pandas.DataFrame(ROWS, columns=["a", "b"])


def workbook(path, sheets, after=lambda book: None):
    openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    after(book)
    book.save(path)
    return path


def with_names(rows=ROWS):
    return [["a", "b"], *rows]


def hide(book):
    book.active.row_dimensions[3].hidden = True
    book.active.column_dimensions["B"].hidden = True


def percent(book):
    for row in book.active.iter_rows(min_row=2, min_col=2, max_col=2):
        row[0].number_format = "0.00%"


def second_only(book):
    book.worksheets[0].sheet_state = "hidden"


OTHERS = "the sheet 'one', the first of 2; t.xlsx#NAME reads another: two"
BOOKS = {  # sheets, what is done to them, columns, what is said
    "names": ({"one": with_names()}, None, ["a", "b"], ()),
    "no names": ({"one": ROWS}, None, ["0", "1"], ()),
    "title rows": (
        {"one": [["Sales 2024"], [None, None], *with_names()]},
        lambda book: book.active.merge_cells("A1:B1"),
        ["a", "b"],
        ("1 rows above the table left out, the first of them 'Sales 2024'",),
    ),
    "empty first sheet": ({"empty": [], "one": with_names()}, None, ["a", "b"], ()),
    "two sheets": ({"one": with_names(), "two": with_names()}, None, ["a", "b"], (OTHERS,)),
    "a hidden sheet": ({"notes": [["x", "y"], [1, 2]], "one": with_names()}, second_only, ["a", "b"], ()),
    "away from the corner": ({"one": [[], [], *([None, None, *row] for row in with_names())]}, None, ["a", "b"], ()),
    "empty rows": (
        {"one": [*with_names(ROWS[:5]), [None, None], *ROWS[5:]]},
        None,
        ["a", "b"],
        ("1 empty rows left out",),
    ),
    "hidden rows and columns": (
        {"one": with_names()},
        hide,
        ["a", "b"],
        ("1 hidden rows are read too", "the hidden columns B are read too"),
    ),
    "percent": ({"one": with_names()}, percent, ["a", "b"], ("b: percent read as shares, 5 % as 0.05",)),
    "row numbers": (
        {"one": [[None, "a", "b"], *([i, *row] for i, row in enumerate(ROWS))]},
        None,
        ["a", "b"],
        ("the first column, without a name, left out: a data frame's row numbers",),
    ),
}


@pytest.mark.parametrize("name", BOOKS)
def test_a_workbook_holds_the_table(name, tmp_path):
    sheets, after, columns, notes = BOOKS[name]
    frame = read_file(workbook(tmp_path / "t.xlsx", sheets, after or (lambda book: None)))
    assert list(frame.values.columns) == columns
    np.testing.assert_array_equal(frame.values.to_numpy(dtype=float), ROWS)
    assert frame.notes == notes
    assert pv.load_data(tmp_path / "t.xlsx").num_features == 2


def test_a_sheet_is_named_behind_the_file(tmp_path):
    path = workbook(
        tmp_path / "t.xlsx", {"one": with_names(), "two": [["c"], *([i / 7] for i in range(20))], "none": []}
    )
    assert pv.load_data(f"{path}#two").columns == ("c",)
    for sheet, message in {"three": "no sheet 'three'; there is one, two, none", "none": "'none' is empty"}.items():
        with pytest.raises(pv.InputError, match=message):
            pv.load_data(f"{path}#{sheet}")
    with pytest.raises(pv.InputError, match="no file or folder"):
        pv.load_data(tmp_path / "other.xlsx#two")


def test_dates_errors_and_empty_cells(tmp_path):
    days = [datetime.datetime(2024, 1, 1 + i) for i in range(12)]
    rows = [[day, a, b] for day, (a, b) in zip(days, ROWS, strict=True)]
    rows[2][1], rows[3][1], rows[4][2] = None, "#N/A", "#DIV/0!"
    frame = read_file(workbook(tmp_path / "t.xlsx", {"one": [["day", "a", "b"], *rows]}))
    assert frame.values["day"].tolist() == [pandas.Timestamp(day) for day in days]
    assert frame.values.isna().sum().tolist() == [0, 2, 1]
    assert frame.notes == ("1 cells that hold an error (#DIV/0!, #N/A) read as missing",)


def formula(book):
    book.active["B4"] = "=A4*2"


def formulas(book):
    for name in ("A14", "B14"):
        book.active[name] = "=A2*2"


REFUSED = {
    "a row of formulas": ({"one": with_names()}, formulas, "A14 holds a formula without a value"),
    "formula": ({"one": with_names()}, formula, "B4 holds a formula without a value; open the workbook"),
    "merged": ({"one": with_names()}, lambda book: book.active.merge_cells("A3:A5"), "A3:A5 of the table are merged"),
    "empty": ({"one": []}, None, "no visible sheet has values in it"),
    "names only": ({"one": [["a", "b"]]}, None, "no rows below the names a, b"),
    "one name twice": ({"one": [["a", "a"], *ROWS]}, None, "two columns are called 'a'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_workbooks_that_cannot_be_used_are_refused(name, tmp_path):
    sheets, after, message = REFUSED[name]
    path = workbook(tmp_path / "t.xlsx", sheets, after or (lambda book: None))
    with pytest.raises(pv.InputError, match=message):
        read_file(path)


def test_files_that_are_no_workbooks_are_refused(tmp_path):
    pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    (tmp_path / "t.xlsx").write_text("a,b\n1,2\n")
    (tmp_path / "t.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "e.xlsx").touch()
    for name, message in {
        "t.xlsx": "not a readable Excel workbook",
        "t.xls": r"cannot read a \.xls; save it as \.xlsx",
        "e.xlsx": "the file is empty",
    }.items():
        with pytest.raises(pv.InputError, match=message):
            read_file(tmp_path / name)


def test_arrow_files_and_streams_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    frame = FRAME.assign(kind=["x", "y"] * 6)
    frame.to_feather(tmp_path / "t.feather")
    table = pyarrow.Table.from_pandas(frame)
    with pyarrow.ipc.new_file(tmp_path / "t.arrow", table.schema) as file:
        file.write_table(table)
    with pyarrow.ipc.new_stream(tmp_path / "s.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("t.feather", "t.arrow", "s.arrow"):
        pandas.testing.assert_frame_equal(read_file(tmp_path / name).values, frame, check_dtype=False)
    (tmp_path / "bad.feather").write_text("a,b\n1,2\n")
    with pytest.raises(pv.InputError, match="not a readable file of Arrow's"):
        read_file(tmp_path / "bad.feather")


def test_a_folder_of_parquet_is_one_table(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    frame = FRAME.assign(year=[2023, 2024] * 6)
    frame.to_parquet(tmp_path / "t.parquet", partition_cols=["year"])
    found = read_file(tmp_path / "t.parquet")
    assert found.notes == ("year: from the names of the folders",)
    expected = frame.sort_values("year", kind="stable")[["a", "b"]].to_numpy()
    np.testing.assert_array_equal(found.values[["a", "b"]].to_numpy(), expected)
    assert found.values["year"].astype(int).tolist() == [2023] * 6 + [2024] * 6
    FRAME[:6].to_parquet(tmp_path / "1.parquet")
    (tmp_path / "plain").mkdir()
    FRAME[:6].to_parquet(tmp_path / "plain" / "1.parquet")
    FRAME[6:].to_parquet(tmp_path / "plain" / "2.parquet")
    np.testing.assert_array_equal(read_file(tmp_path / "plain").values.to_numpy(), ROWS)


def zipped(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize("text", [".csv", ".tsv"])
def test_compressed_text_is_read(text, tmp_path):
    content = FRAME.to_csv(index=False, sep="," if text == ".csv" else "\t").encode()
    for suffix, packed in {
        ".gz": gzip.compress(content),
        ".bz2": bz2.compress(content),
        ".xz": lzma.compress(content),
        ".zip": zipped(t=content),
    }.items():
        path = tmp_path / f"t{text}{suffix}"
        path.write_bytes(packed)
        np.testing.assert_array_equal(read_file(path).values.to_numpy(), ROWS)
        path.write_bytes(packed[: len(packed) // 2])
        with pytest.raises(pv.InputError, match="not a readable table"):
            read_file(path)


def test_archives_are_refused_in_words(tmp_path):
    (tmp_path / "t.csv.zip").write_bytes(zipped(a=b"x\n1\n", b=b"x\n1\n"))
    (tmp_path / "mac.csv.zip").write_bytes(zipped(t=FRAME.to_csv(index=False).encode()))
    with zipfile.ZipFile(tmp_path / "mac.csv.zip", "a") as archive:
        archive.writestr("__MACOSX/._t", b"\0")
    assert len(read_file(tmp_path / "mac.csv.zip").values) == 12
    with pytest.raises(pv.InputError, match=r"holds 2 files \(a, b\); unpack it"):
        read_file(tmp_path / "t.csv.zip")
    for name in ("t.zip", "t.npy.gz", "t.parquet.zip", "t.csv.zst"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(pv.InputError, match=r"cannot read a \.\w+; unpack it"):
            read_file(tmp_path / name)
    (tmp_path / "t.pkl").write_bytes(b"x")
    with pytest.raises(pv.InputError, match="it may run code"):
        read_file(tmp_path / "t.pkl")


def test_a_run_remembers_its_sheet(tmp_path, monkeypatch):
    from pyro_vae.cli.main import main

    rows = np.random.default_rng(1).normal(size=(200, 2)).tolist()
    workbook(tmp_path / "t.xlsx", {"one": with_names(), "two": with_names(rows)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--data", "t.xlsx#two", "--epochs", "1", "--hidden", "4", "--out", "run"])
    assert ended.value.code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(SystemExit) as ended:
        main(["encode", "../run", "--out", "z.csv"])
    assert ended.value.code == 0
    assert len(pandas.read_csv("z.csv")) == 20
