"""The report: what the page holds is what the program says, and it is one file."""

import json
import re

import example_programs
import numpy as np
import pytest
from example_programs import vae_for
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.plots.latent_figures import LatentFigure
from pyro_vae.report import html_page, numbers_in_words, settings_in_words
from pyro_vae.serialization import to_recipe


@pytest.fixture
def fake_figures(monkeypatch):
    def draw_latent_figures(*_, **__):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, 1])
        return [LatentFigure("portrait", "A <portrait>", "Look at the line.", figure)]

    monkeypatch.setattr(html_page, "draw_latent_figures", draw_latent_figures)


def write(folder, program, data, **options):
    settings = {"config": {}, "records": {}, "history": [], "num_rows": 40, "num_samples": 30} | options
    return html_page.write_report(folder, program, data, **settings)


def inside(page):
    """The data that the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found[1]) if found else None


def test_the_page_is_one_file_whose_data_cannot_end_its_script(tmp_path, fake_figures):
    import pandas

    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(100, 2)), columns=["</script><b>a", "b & c"])
    frame.to_csv(tmp_path / "mine.csv", index=False)
    data = pv.load_data(tmp_path / "mine.csv")
    vae = vae_for(data, 2)
    history = pv.fit(vae, data, epochs=2).history
    path = write(tmp_path, vae, data, history=history)
    page = path.read_text()
    assert path == tmp_path / "report.html"
    assert page.count("<script") == page.count("</script>") == 2
    assert inside(page)["columns"] == ["</script><b>a", "b & c"]
    assert '<section id="improbable"' in page
    assert '<th scope="col" class="figure">&lt;/script&gt;&lt;b&gt;a</th>' in page
    assert "A &lt;portrait&gt;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http://" not in page
    assert "https://" not in page
    assert not (tmp_path / "figures").exists()  # drawn again for the page alone
    assert {"training", "samples"} <= {name for name in html_page.CAPTIONS if html_page.CAPTIONS[name][0] in page}
    assert page == write(tmp_path, vae, data, history=history).read_text()  # same seed, same bits


def test_numbers_come_from_the_record_with_their_meaning(tmp_path, fake_figures):
    data = pv.load_data("digits")
    vae = vae_for(data, 2)
    known = {
        "split": "valid", "measure": "counting measure on {0, 1}^64", "log_px": -21.5, "log_px_kind": "lower bound",
        "log_px_se": 0.4, "log_px_mc_se": 0.0123, "elbo": -22.75, "gap": 1.25, "reconstruction": -20.0, "kl": 2.75,
        "iwae": {"1": -22.75, "5": -22.0, "50": -21.75, "200": -21.5}, "khat_bad": 0.25, "active_units": 2,
        "num_data": 180, "num_samples": 200,
    }  # fmt: skip
    shown = {number.name: number for number in numbers_in_words.numbers(EvidenceRecord.from_dict(known))}
    assert {name: number.value for name, number in shown.items()} == {
        "log p(x)": "−21.50", "error over rows": "± 0.40", "Monte-Carlo error": "± 0.012", "ELBO": "−22.75",
        "reconstruction": "−20.00", "KL": "2.75", "IWAE bounds": "−22.00 · −21.75", "k-hat too high": "25%",
        "active units": "2",
    }  # fmt: skip
    assert "the true value lies higher" in shown["log p(x)"].meaning
    records = {"valid": known, "valid exact": known | {"log_px": -21.0, "log_px_kind": "exact", "log_px_mc_se": None}}
    page = write(tmp_path, vae, data, records=records).read_text()
    assert "From evaluation.json" in page
    assert "−21.00" in page
    own = write(tmp_path, vae, data, records=records, split="test").read_text()  # the run has not scored these
    assert "the run has no evaluation of them" in own
    assert "40 test rows" in own


def test_a_page_without_explorer_or_log_px_stands(tmp_path, fake_figures):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(100, 1)))
    data = pv.load_data(tmp_path / "x.npy")
    program = example_programs.global_mean()
    history = pv.fit(program, data, epochs=2, batch_size=80).history
    page = write(tmp_path, program, data, history=history, out=tmp_path / "else.html").read_text()
    assert "There is no explorer on this page: this program has no decode(z)" in page
    assert "log p(x) of a row needs every site inside one plate" in page
    assert inside(page) is None
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("num_rows", [100, 12])
def test_a_program_in_float64_and_a_handful_of_rows_have_their_page(tmp_path, num_rows):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(num_rows, 3)))
    data = pv.load_data(tmp_path / "x.npy")
    page = write(tmp_path, vae_for(data, 2).double(), data, num_rows=20).read_text()
    assert (inside(page) is None) == (len(data.valid) < 3)
    assert "Latent traversals" in page


def test_what_is_no_program_and_where_no_file_can_be_is_said_at_the_door(tmp_path, monkeypatch):
    data = pv.load_data("digits")
    vae = vae_for(data, 2)
    with pytest.raises(pv.InputError, match=r"expected a program with a model and a guide, got a PCA"):
        write(tmp_path, pv.PCA(2).fit(data), data)
    monkeypatch.setattr(html_page, "log_evidence", lambda *_, **__: pytest.fail("too late"))
    (tmp_path / "there.html").mkdir()
    (tmp_path / "file").touch()
    for out in ("there.html", "file/new.html"):
        with pytest.raises(pv.InputError, match=r"cannot be written"):
            write(tmp_path, vae, data, out=tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there.html"]


def test_a_recipe_reads_part_inside_part():
    made = to_recipe(vae_for(pv.load_data("digits"), 2))
    assert settings_in_words.recipe(made).splitlines()[:3] == [
        "VAE(", "    prior=StandardNormal(num_latents=2),", "    likelihood=Bernoulli(",
    ]  # fmt: skip
    assert (
        settings_in_words.recipe({"make": "a.b", "of": {"same_as": "program.guide"}}) == "b(\n    of=program.guide,\n)"
    )
    assert settings_in_words.recipe({"make": "a.b", "n": list(range(20))}).endswith("11, … (20)])")


def test_digits_of_twenty_latents_stay_below_five_megabytes(tmp_path, monkeypatch):
    """The size does not depend on how log p(x) is found, which would take longest."""
    monkeypatch.setattr("pyro_vae.report.html_page.auto_evidence", pv.log_evidence)
    data = pv.load_data("mnist-5k")
    vae = vae_for(data, 20, hidden=100)
    history = pv.fit(vae, data, epochs=2).history
    path = write(tmp_path, vae, data, history=history, num_rows=500, num_samples=25)
    assert path.stat().st_size < 5_000_000
    assert len(inside(path.read_text())["starts"]) == 11
