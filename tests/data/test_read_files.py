"""Files and arrays in memory: the values, columns, labels and images read from them, and the errors."""

import datetime
import io
import zipfile

import numpy as np
import pytest
import torch
from whole_table import whole_table

import pyro_vae as pv


def write_tables(folder, values, labels):
    import pandas

    frame = pandas.DataFrame(values, columns=["a", "b", "c"])
    frame["label"] = labels
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet")
    np.savez(folder / "t.npz", x=values, y=labels)
    np.save(folder / "t.npy", values)
    np.savetxt(folder / "bare.csv", values, delimiter=",")


def test_files_hold_what_was_written(tmp_path):
    values, labels = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32), np.arange(30) % 3
    write_tables(tmp_path, values, labels)
    for name in ("t.csv", "t.parquet", "t.npz", "t.npy", "bare.csv"):
        table = whole_table(tmp_path / name)
        np.testing.assert_allclose(table.values.numpy(), values, rtol=1e-6)
        if name[0] == "t" and name != "t.npy":
            assert table.labels.tolist() == labels.tolist()
    data = pv.load_data(tmp_path / "t.csv")
    assert [len(s) for s in (data.train, data.valid, data.test)] == [24, 3, 3]
    stored = torch.cat([data.train.stored, data.valid.stored, data.test.stored]).numpy()
    np.testing.assert_allclose(np.sort(stored, axis=0), np.sort(values, axis=0), rtol=1e-6)


def test_images_are_read_from_a_folder(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(12, 5, 4), dtype=np.uint8)
    for i, image in enumerate(images):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i:02}.png")
    table = whole_table(tmp_path)
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    assert np.array_equal(table.values.numpy(), images[order].reshape(12, -1))
    assert table.labels.tolist() == [0] * 6 + [1] * 6
    data = pv.load_data(tmp_path)
    assert data.image_shape == (5, 4)
    assert data.measure == "counting measure on {0, 1}^20"
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(tmp_path / "a" / "small.png")
    with pytest.raises(pv.InputError, match=r"3×3 pixels .*, but 00.png has 5×4; .* with --resize 5x4"):
        pv.load_data(tmp_path)


def test_unusable_files_raise_with_the_reason(tmp_path):
    import pandas

    (tmp_path / "empty.csv").touch()
    (tmp_path / "damaged.npy").write_bytes(b"not numpy")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "few.npy", np.zeros((4, 2)))
    np.save(tmp_path / "nan.npy", np.array([[1.0, 2.0], [np.nan, 2.0]] * 6))
    pandas.DataFrame({"a": [1.0] * 12, "b": 2.0}).to_csv(tmp_path / "still.csv", index=False)
    (tmp_path / "odd.doc").write_text("?")
    for name, message in [
        ("absent.npy", "no file or folder"),
        ("empty.csv", "the file is empty"),
        ("damaged.npy", "not a readable numpy file"),
        ("objects.npy", "not a readable numpy file"),
        ("line.npy", r"has shape \(5,\); expected one row for each observation"),
        ("few.npy", "4 rows are too few"),
        ("nan.npy", r"6 values are missing \(NaN\), the first in row 1 \(counting from 0\), column 0"),
        ("still.csv", "no column is left to model: a  ignored      always 1; left out: it does not vary"),
        ("odd.doc", r"cannot read a .doc; try one of .npy"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            pv.load_data(tmp_path / name)
    with pytest.raises(
        pv.InputError, match=r"no data set or file called 'minst'; try one of mnist-5k.*; did you mean 'mnist'\?"
    ):
        pv.load_data("minst")
    with pytest.raises(pv.InputError, match="needs values in"):
        pv.load_data("swiss-roll", binarize="stochastic")
    with pytest.raises(pv.InputError, match="neither dequantized nor standardized"):
        pv.load_data("digits", binarize="fixed", standardize=True)


@pytest.mark.parametrize("ending", ["parquet", "frame"])
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["x", 2.0, 3.0, 4.0], "found holds 'x' in row 0 .*which is no number; correct it or leave the cell empty"),
        ([datetime.time(12), datetime.time(13)], r"times of day in found; write times of day as seconds, or leave"),
        ([b"x", b"y"], "bytes in found"),
        ([[1, 2], [3, 4]], r"lists in found; write each element of a list as a column, or leave .*--drop found"),
        ([{"a": 1}, {"a": 2}], r"records in found"),
        ([1j, 2.0], "complex numbers in found"),
    ],
)
def test_columns_that_hold_no_values_of_a_table_are_refused_by_what_they_hold(cells, message, ending, tmp_path):
    import pandas

    frame = pandas.DataFrame({"number": np.arange(12.0) ** 2, "found": cells * (12 // len(cells))})
    if ending == "parquet":
        if complex in map(type, cells) or cells[0] == "x":
            pytest.skip("Parquet has no such column")
        frame.to_parquet(tmp_path / "table.parquet")
    source = tmp_path / "table.parquet" if ending == "parquet" else frame
    with pytest.raises(pv.InputError, match=message):
        pv.load_data(source)
    if ending == "parquet":
        with pytest.raises(pv.InputError, match="no numbers in found, and rows that stay on disk hold numbers only"):
            pv.load_data(source, stream=True)
    assert pv.load_data(source, drop="found").columns == ("number",)
    assert pv.load_data(source, id="found").train.ids["found"].shape == (10,)


def test_two_columns_of_one_name_are_refused():
    import pandas

    frame = pandas.DataFrame({"d": np.arange(12.0) ** 2})
    with pytest.raises(pv.InputError, match=r"two columns are called 'd'"):
        pv.load_data(pandas.concat([frame, frame], axis=1))


def test_binary_tables_are_used_unchanged(tmp_path):
    values = (np.random.default_rng(0).random((40, 5)) < 0.3).astype(np.float32)
    np.save(tmp_path / "bits.npy", values)
    data = pv.load_data(tmp_path / "bits.npy")
    assert data.measure == "counting measure on {0, 1}^5"
    assert torch.equal(data.train.x, data.train.stored)


def test_tables_written_by_other_programs_are_read_completely(tmp_path):
    """Numbers as names, an index column, a repetitive first row, time stamps: no row or column is lost or added."""
    import pandas

    values = np.random.default_rng(0).normal(size=(12, 3))
    pandas.DataFrame(values).to_csv(tmp_path / "numbered.csv", index=False)
    pandas.DataFrame(values, columns=["x", "y", "z"]).to_csv(tmp_path / "indexed.csv")
    pandas.DataFrame(values, columns=["a", "b", "c"]).to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    assert whole_table(tmp_path / "semicolons.csv").columns == ("a", "b", "c")
    (tmp_path / "repeats.csv").write_text("\n".join(["1.0, 1.0, 2.0"] * 12))
    for name in ("numbered.csv", "indexed.csv"):
        table = whole_table(tmp_path / name)
        np.testing.assert_allclose(table.values.numpy(), values)
        assert table.labels is None
    assert whole_table(tmp_path / "repeats.csv").values.shape == (12, 3)
    stamps = 1_700_000_000 + 17.6 * values
    np.save(tmp_path / "stamps.npy", stamps)
    data = pv.load_data(tmp_path / "stamps.npy")
    assert data.train.x.dtype == torch.float32
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(data.test.measure.to_original_units(data.test.x), data.test.stored, atol=1e-4, rtol=0)


def test_bytes_are_images_by_shape_or_square_width(tmp_path):
    counts = np.random.default_rng(0).poisson(3, size=(30, 5)).astype(np.uint8)
    np.save(tmp_path / "counts.npy", counts)
    assert pv.load_data(tmp_path / "counts.npy").measure == "Lebesgue measure on R^5 (original units)"
    images = np.random.default_rng(0).integers(0, 256, size=(30, 20, 14), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "flat.npy", images.reshape(30, -1))
    assert pv.load_data(tmp_path / "images.npy").measure == "counting measure on {0, 1}^280"
    assert pv.load_data(tmp_path / "flat.npy", image_shape=(20, 14)).measure == "counting measure on {0, 1}^280"
    assert pv.load_data(tmp_path / "flat.npy").image_shape is None
    from PIL import Image

    (tmp_path / "deep").mkdir()
    Image.fromarray(images[0].astype(np.uint16) * 200).save(tmp_path / "deep" / "a.png")
    with pytest.raises(pv.InputError, match="more than 8 bits a pixel"):
        pv.load_data(tmp_path / "deep")


def test_arrays_tensors_and_data_frames_keep_their_row_numbers():
    import pandas

    values = np.random.default_rng(0).normal(size=(40, 2))
    for data in (values, torch.from_numpy(values), pandas.DataFrame(values, columns=["a", "b"])):
        found = pv.load_data(data)
        assert len(repr(found)) < 200
        torch.testing.assert_close(found.test.stored, torch.from_numpy(values)[found.test.index])
    assert found.columns == ("a", "b")
    with pytest.raises(pv.InputError, match=r"holds images of 5×4, not of 4×5"):
        pv.load_data(np.zeros((20, 5, 4), dtype=np.uint8), image_shape=(4, 5))


def test_integer_labels_are_not_renumbered(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).normal(size=(4, 2)), y=np.array([1.0, 2.0, 10.0, 7.0]))
    assert whole_table(tmp_path / "t.npz").labels.tolist() == [1, 2, 10, 7]
    (tmp_path / "bits.csv").write_text("0,1\n" * 12)
    assert len(whole_table(tmp_path / "bits.csv").values) == 12


ROWS = [str(row / 4) for row in range(12)]
WRITTEN = {  # what random tables found: the text of a column beside others, its kind as said, the separator
    "a semicolon in a quoted name": ("size; cm", "real", ",", ROWS),
    "tabs, and a comma in a name": ("size, in cm", "real", "\t", ROWS),
    "dates of a kind that is said": ("day", "datetime", ",", [f"2024-02-{row + 1:02}" for row in range(12)]),
    "a date without an end": (
        "until",
        "datetime",
        ",",
        [*[f"2024-02-{row + 1:02}" for row in range(11)], "9999-12-31"],
    ),
    "dates before nanoseconds": ("born", "datetime", ",", [f"{year}-05-01" for year in range(1500, 1512)]),
    "numbers without decimals": ("large", "real", ",", [f"{row + 1}.5e150" for row in range(12)]),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_cells_come_back_as_they_were_written(case, tmp_path):
    name, kind, separator, cells = WRITTEN[case]
    lines = [f'"{name}"{separator}other', *(f"{cell}{separator}{i}.5" for i, cell in enumerate(cells))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = pv.load_data(tmp_path / "t.csv", columns={name: kind})
    for split in (data.train, data.valid, data.test):
        found = data.schema.decode(split.stored.numpy())[name].tolist()
        written = [cells[row] for row in split.index.tolist()]
        assert found == (written if kind == "datetime" else [float(cell) for cell in written])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("largest", [1e200, 1.7e308])
def test_values_without_a_spread_are_refused_in_memory_and_on_disk(largest, stream, tmp_path):
    """On disk their columns were not standardized, without a word."""
    values = np.random.default_rng(0).normal(size=(40, 2))
    values[:, 1] *= largest / np.abs(values[:, 1]).max()
    np.save(tmp_path / "x.npy", values)
    if largest < 1e300 and not stream:
        assert pv.load_data(tmp_path / "x.npy").train.x.isfinite().all()
        return
    with pytest.raises(pv.InputError, match=r"column 1 \(counting from 0\) has values too large to standardize"):
        pv.load_data(tmp_path / "x.npy", stream=stream or None)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (900, r"x.npz: x is cut off: its shape \(100, 3\) takes 1,200 bytes, and it has 1,0"),
        (1199, "x.npz: x cannot be read"),  # by less than its header takes
    ],
)
def test_an_archive_whose_array_is_shorter_than_it_says_is_refused(held, message, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (100, 3)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(held))
    with pytest.raises(pv.InputError, match=message):
        pv.load_data(tmp_path / "x.npz")
