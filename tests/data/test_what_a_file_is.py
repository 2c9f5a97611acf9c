"""What a file or array is, decided by looking and said: each case has its right answer, nothing is reinterpreted."""

import gzip

import numpy as np
import pandas
import pytest
import torch
from whole_table import whole_table

import pyro_vae as pv
from pyro_vae.data.table import encode_labels
from pyro_vae.errors import UnknownValueWarning

G = np.random.default_rng(0)
REALS = np.round(G.normal(size=(30, 3)), 4)
BODY = "\n".join(",".join(f"{value:.4f}" for value in row) for row in REALS) + "\n"
COUNTS = G.integers(0, 30, size=(30, 3))
COUNTS_BODY = "\n".join(",".join(map(str, row)) for row in COUNTS) + "\n"


def lines(*rows):
    return "\n".join(rows) + "\n"


def numbered(body, separator=","):
    return "".join(f"{i}{separator}{line}\n" for i, line in enumerate(body.splitlines()))


SHUFFLED = [f"{number},{line}" for number, line in zip(G.permutation(30) + 5, BODY.splitlines(), strict=True)]

# name, text, columns, rows as numbers (None: REALS), part of a note
TEXTS = {
    "names": ("a,b,c\n" + BODY, ("a", "b", "c"), None, ""),
    "no names": (BODY, (), None, ""),
    "numbered from 0": ("0,1,2\n" + BODY, ("0", "1", "2"), None, "numbered from 0"),
    "two columns numbered from 0": (
        "0,1\n" + lines(*(",".join(line.split(",")[:2]) for line in BODY.splitlines())),
        ("0", "1"),
        REALS[:, :2],
        "read as column names",
    ),
    "wavelengths": ("400.5,401.0,401.5\n" + BODY, ("400.5", "401.0", "401.5"), None, "read as column names"),
    "years over counts": ("2010,2011,2012\n" + COUNTS_BODY, ("2010", "2011", "2012"), COUNTS, "read as column names"),
    "years and a name": ("site,2011,2012\n" + COUNTS_BODY, ("site", "2011", "2012"), COUNTS, ""),
    "counts in ascending order are a row": ("3,7,12\n" + COUNTS_BODY, (), np.vstack([[3, 7, 12], COUNTS]), ""),
    "reals in ascending order are a row": ("-0.5,0.1,0.7\n" + BODY, (), np.vstack([[-0.5, 0.1, 0.7], REALS]), ""),
    "an index without a name": (",a,b,c\n" + numbered(BODY), ("a", "b", "c"), None, "row numbers"),
    "the index of a shuffled frame": (lines(",a,b,c", *SHUFFLED), ("a", "b", "c"), None, "row numbers"),
    "row names that the header leaves out": (
        lines("a,b,c", *(f"row{i},{line}" for i, line in enumerate(BODY.splitlines()))),
        ("a", "b", "c"),
        None,
        "read as its name",
    ),
    "row numbers that the header leaves out": (
        lines("a,b,c", *(f"{i + 1},{line}" for i, line in enumerate(BODY.splitlines()))),
        ("a", "b", "c"),
        None,
        "read as its name",
    ),
    "a separator at the end of each row": (
        lines("a,b,c", *(f"{line}," for line in BODY.splitlines())),
        ("a", "b", "c"),
        None,
        "separator at the end",
    ),
    "semicolons": ("a;b;c\n" + BODY.replace(",", ";"), ("a", "b", "c"), None, ""),
    "decimal commas": ("a;b;c\n" + BODY.replace(",", ";").replace(".", ","), ("a", "b", "c"), None, "decimal commas"),
    "decimal commas, years as names": (
        "2010;2011;2012\n" + BODY.replace(",", ";").replace(".", ","),
        ("2010", "2011", "2012"),
        None,
        "decimal commas",
    ),
    "tabs": ("a\tb\tc\n" + BODY.replace(",", "\t"), ("a", "b", "c"), None, ""),
    "bars": ("a|b|c\n" + BODY.replace(",", "|"), ("a", "b", "c"), None, ""),
    "spaces after commas": ("a, b, c\n" + BODY.replace(",", ", "), ("a", "b", "c"), None, ""),
    "quoted names with commas and lines": ('"a,1","b\n2",c\n' + BODY, ("a,1", "b\n2", "c"), None, ""),
    "names as numpy.savetxt writes them": ("# a,b,c\n" + BODY, ("a", "b", "c"), None, ""),
    "truth values": (
        lines("a,b", *("TRUE,1.5" if i % 2 else "FALSE,2.5" for i in range(30))),
        ("a", "b"),
        np.array([[i % 2, 1.5 if i % 2 else 2.5] for i in range(30)]),
        "",
    ),
    "empty lines": ("a,b,c\n\n" + BODY.replace("\n", "\n\n"), ("a", "b", "c"), None, ""),
    "Windows line ends": (("a,b,c\n" + BODY).replace("\n", "\r\n"), ("a", "b", "c"), None, ""),
    "names of other alphabets": ("größe,日本,c\n" + BODY, ("größe", "日本", "c"), None, ""),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_table_is_what_it_is(name, tmp_path):
    text, columns, values, note = TEXTS[name]
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    table = whole_table(path)
    assert table.columns == columns
    np.testing.assert_allclose(table.values.numpy(), REALS if values is None else values)
    assert note in "; ".join(table.notes)
    assert bool(table.notes) == bool(note)


@pytest.mark.parametrize(
    ("encoding", "suffix"), [("utf-8-sig", ".csv"), ("utf-16", ".csv"), ("latin-1", ".csv"), ("utf-8", ".tsv")]
)
def test_encodings_and_suffixes(encoding, suffix, tmp_path):
    separator = "\t" if suffix == ".tsv" else ","
    text = ("größe,b,c\n" + BODY).replace(",", separator)
    (tmp_path / f"t{suffix}").write_bytes(text.encode(encoding))
    (tmp_path / f"t{suffix}.gz").write_bytes(gzip.compress(text.encode(encoding)))
    for name in (f"t{suffix}", f"t{suffix}.gz"):
        table = whole_table(tmp_path / name)
        assert table.columns == ("größe", "b", "c")
        np.testing.assert_allclose(table.values.numpy(), REALS)
        assert ("Latin-1" in "; ".join(table.notes)) == (encoding == "latin-1")


def test_the_first_row_as_it_is_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("2010,2011,2012\n" + COUNTS_BODY)
    assert len(whole_table(path, header="no").values) == 31
    assert whole_table(path, header="yes").columns == ("2010", "2011", "2012")
    assert pv.load_data(path, header="no").num_features == 3
    with pytest.raises(pv.InputError, match="header must be 'auto', 'yes' or 'no'"):
        pv.load_data(path, header="maybe")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            lines("a,b,c", *BODY.splitlines()[:5], "1,2", *BODY.splitlines()[5:]),
            r"t.csv: row 7 has 2 values for 3 names",
        ),
        (lines("a,b,c", *BODY.splitlines()[:5], "1,2,3,4", *BODY.splitlines()[5:]), "row 7 has 4 values for 3 names"),
        (lines("a,b,c", *(["1,1,2,3"] * 20)), "row 2 has 4 values for 3 names"),
        (lines("a,b,a", *BODY.splitlines()), "two columns are called 'a'"),
        (lines("a,b,c", *BODY.splitlines() * 10, "1,2"), "line 302 has 2 values, and others have 3"),
        (lines(*BODY.splitlines() * 10, "1,2"), "line 301 has 2 values, and others have 3"),
        (lines("a,b,c", *BODY.splitlines() * 10, "1,2,3,4"), "more values than the header|Expected 3 fields"),
    ],
)
def test_rows_that_do_not_fit_the_names_are_refused(text, message, tmp_path):
    """A value more would have shifted every name by one column."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(pv.InputError, match=message):
        whole_table(tmp_path / "t.csv")


def test_empty_cells_at_the_end_of_long_files_are_missing_values(tmp_path):
    (tmp_path / "t.csv").write_text(lines("a,b,c", *BODY.splitlines() * 10, "1,2,", ",2,3"))
    table = whole_table(tmp_path / "t.csv")
    assert table.values[-2:].isnan().tolist() == [[False, False, True], [True, False, False]]


def test_frames_are_what_files_are(tmp_path):
    """A frame's index, written as a column and read back, is left out in both."""
    frame = pandas.DataFrame(REALS, columns=["a", "b", "c"]).sample(frac=1.0, random_state=0)
    frame.to_csv(tmp_path / "t.csv")
    back = pandas.read_csv(tmp_path / "t.csv")
    for table in (whole_table(tmp_path / "t.csv"), whole_table(back), whole_table(frame)):
        assert table.columns == ("a", "b", "c")
        np.testing.assert_allclose(table.values.numpy(), frame.to_numpy())
    measured = back.rename(columns={"Unnamed: 0": "Unnamed: 0"}).assign(**{"Unnamed: 0": REALS[:, 0]})
    assert whole_table(measured).columns[0] == "Unnamed: 0"  # values, not row numbers


def test_a_masked_array_keeps_its_mask():
    values = np.ma.masked_array(REALS.copy(), mask=REALS > 1.0, fill_value=1e20)
    with pytest.raises(pv.InputError, match="values are missing"):
        pv.load_data(values)
    table = whole_table(values)
    assert np.array_equal(np.isnan(table.values.numpy()), REALS > 1.0)
    assert whole_table(np.ma.masked_array(REALS)).values.isfinite().all()
    whole = np.ma.masked_array(COUNTS, mask=COUNTS == 3)
    assert np.array_equal(np.isnan(whole_table(whole).values.numpy()), COUNTS == 3)


# labels as they are read, those of the table, the text of 0, 1, …
LABELS = {
    "whole numbers": ([3, 7, 3], [3, 7, 3], ()),
    "whole numbers, one missing": ([3.0, 7.0, np.nan], [3, 7, -1], ()),
    "whole numbers and None": ([3, None, 7], [3, -1, 7], ()),
    "text": (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
    "text, one missing": (["dog", None, "cat"], [1, -1, 0], ("cat", "dog")),
    "text and NaN": (["dog", float("nan"), "cat"], [1, -1, 0], ("cat", "dog")),
    "pandas' missing": ([pandas.NA, "b", "a"], [-1, 1, 0], ("a", "b")),
    "fractions": ([0.5, 10.5, 2.0], [0, 2, 1], ("0.5", "2.0", "10.5")),
    "numbers as text": (["10", "9", "2"], [2, 1, 0], ("2", "9", "10")),
    "booleans": ([True, False, True], [1, 0, 1], ()),
    "all missing": ([None, None, None], [-1, -1, -1], ()),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_what_they_are(name, tmp_path):
    values, expected, levels = LABELS[name]
    found, names = encode_labels(np.array(values, dtype=object), tmp_path, 3)
    assert found.tolist() == expected
    assert names == levels


def test_pictures_with_transparency_and_colours(tmp_path):
    """A black drawing on a transparent ground is black on white, and not all zeros; what became of greys is said."""
    from PIL import Image

    for i in range(12):
        alpha = np.zeros((6, 6), dtype=np.uint8)
        alpha[i % 6] = 255
        drawing = np.dstack([np.zeros((6, 6, 3), dtype=np.uint8), alpha])
        Image.fromarray(drawing, "RGBA").save(tmp_path / f"{i:02}.png")
    table = whole_table(tmp_path)
    assert table.values[0].reshape(6, 6)[0].tolist() == [0] * 6
    assert table.values[0].reshape(6, 6)[1].tolist() == [255] * 6
    assert table.notes == ("transparent pictures put on white",)
    Image.fromarray(G.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(tmp_path / "99.png")
    notes = ("transparent pictures put on white (12 of 13)", "grey pictures as three equal channels (12 of 13)")
    assert whole_table(tmp_path).notes == notes
    assert "put on white" in repr(pv.load_data(tmp_path))


@pytest.mark.parametrize(
    ("scale", "shift"), [(1e-300, 0.0), (1e-200, 0.0), (1e200, 0.0), (1.0, 2.0**53), (1e9, 1.7e18), (1e-3, 1.7e9)]
)
def test_columns_at_the_ends_of_float64_are_standardized(scale, shift):
    """Squares of 1e-300 are 0, and the column was taken for a constant; nanoseconds differ by less than float32 has."""
    steps = G.permutation(100).astype(np.float64)
    table = np.column_stack([shift + scale * 4 * steps, REALS[: 100 % 30].mean() + G.normal(size=100)])
    data = pv.load_data(table)
    x = torch.cat([data.train.x, data.valid.x, data.test.x])[:, 0].double()
    assert x.std() == pytest.approx(1.0, abs=0.15)
    assert len(x.unique()) == 100


def customers(n, seed):
    g = np.random.default_rng(seed)
    frame = pandas.DataFrame(
        {"age": g.normal(40, 12, n), "income": g.lognormal(10, 0.5, n), "visits": g.normal(5, 2, n)}
    )
    frame["label"] = g.choice(["bird", "cat", "dog"], n)
    return frame


def fitted_vae(data):
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(1, 4, data.num_features))
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(data.num_features, 4, 2))
    vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide)
    pv.fit(vae, data, epochs=2)
    return vae


def test_new_rows_are_prepared_as_the_training_rows_were(tmp_path):
    """Bit for bit, whatever else the file holds, in any order of columns, and with the labels' places."""
    frame = customers(200, 0)
    frame.to_csv(tmp_path / "old.csv", index=False)
    data = pv.load_data(tmp_path / "old.csv")
    assert data.label_levels == ("bird", "cat", "dog")
    strange = frame.iloc[data.test.source_index(slice(None)).numpy()]
    only_dogs = strange[strange["label"] == "dog"][["visits", "label", "income", "age"]]
    only_dogs.to_csv(tmp_path / "new.csv", index=False)
    for rows in (only_dogs, tmp_path / "new.csv", str(tmp_path / "new.csv")):
        new = data.prepare(rows)
        known = data.test.take(torch.tensor((strange["label"] == "dog").tolist()).nonzero()[:, 0])
        assert torch.equal(new.x, known.x)
        assert new.labels.tolist() == [2] * len(new)
    values = data.prepare(frame[["age", "income", "visits"]].to_numpy()[:5])
    assert torch.equal(values.x, data.prepare(frame.iloc[:5]).x)
    with pytest.warns(
        UnknownValueWarning, match="label: a level that no training row had in 11 of 11 rows, first fish"
    ):
        unseen = data.prepare(only_dogs.assign(label="fish"))
    assert unseen.labels.tolist() == [-1] * len(unseen)
    with pytest.raises(pv.InputError, match="no column income; this run was fitted to age, income, visits"):
        data.prepare(only_dogs.drop(columns="income"))
    with pytest.raises(pv.InputError, match="2 columns, but this run was fitted to rows of 3"):
        data.prepare(np.zeros((4, 2)))


def test_rows_that_were_standardized_by_themselves_are_refused(tmp_path):
    """They came out as "original units" as well, and a fifth of them was flagged."""
    data, other = pv.load_data(customers(300, 0)), pv.load_data(customers(300, 1).assign(age=lambda f: f["age"] + 30))
    vae = fitted_vae(data)
    mixture = pv.GaussianMixture(2, 3)
    pv.fit_em(mixture, data)
    pv.save(vae, tmp_path)
    for program in (vae, mixture, pv.load(tmp_path)):
        verbs = [
            lambda p: pv.score(p, other.test, data.valid),
            lambda p: pv.score(p, data.test, other.valid),
            lambda p: pv.log_evidence(p, other.test),
            lambda p: pv.exact_evidence(p, other.test),
            lambda p: pv.auto_evidence(p, other.test),
            lambda p: pv.laplace_approximation(p, other.test),
            lambda p: pv.nuts(p, other.test.head(2), 5, warmup=5, num_chains=2),
            lambda p: pv.compare({"vae": p}, other.test),
            lambda p: pv.diagnostics.measure_latent_usage(p, other.test),
        ]
        for verb in verbs:
            with pytest.raises(pv.InputError, match=r"standardized otherwise(.|\n)*data.prepare\('new.csv'\)"):
                verb(program)
        found = pv.score(program, data.prepare(customers(100, 2)), data.valid)
        assert found.anomaly.double().mean() < 0.2
        assert pv.log_evidence(program, data.test.x[:3], 10).log_px.shape == (3,)  # plain values are x unchanged
    for call in (
        lambda: pv.fit(vae, data.train, valid=other.valid, epochs=1),
        lambda: pv.fit_em(mixture, data.train, valid=other.valid),
        lambda: mixture.log_prob(other.test),
        lambda: mixture.bic(other.test),
    ):
        with pytest.raises(pv.InputError, match="standardized otherwise"):
            call()
    pv.fit(vae, other, epochs=1)  # fitted anew, it is of those
    assert pv.log_evidence(vae, other.test, 10).log_px.isfinite().all()


def test_files_that_are_written_have_the_labels_text():
    """`encode` wrote 1 for a label 7 where one was missing, and a number for text."""
    from pyro_vae.workflows.row_frames import labels_in_words

    for levels, labels, expected in (
        (("cat", "dog"), [1, -1, 0], ["dog", None, "cat"]),
        ((), [7, -1, 3], [7, None, 3]),
        ((), [7, 3, 3], [7, 3, 3]),
    ):
        assert labels_in_words(torch.tensor(labels), levels).tolist() == expected
