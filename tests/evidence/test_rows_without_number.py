"""A row whose weights are NaN has no number and a reason; the others are untouched, and commands say how many."""

import math
import warnings

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evidence.evidence_record import EvidenceRecord


def program(broken=lambda x: x[:, 0] > 100.0, where="likelihood"):
    """z ~ N(0, 1), x ~ N(z, 1) with the exact posterior as guide; NaN in one term for some rows."""

    def model(x):
        nan = torch.where(broken(x), math.nan, 0.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0 + (nan if where == "prior" else 0.0)))
            loc = z + (nan if where == "likelihood" else 0.0)
            pyro.sample("x", dist.Normal(loc[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.5**0.5))

    return pv.Program(model, guide)


X = torch.tensor([[0.5], [1000.0], [-1.0]])
GOOD = torch.tensor([0, 2])
TRUTH = dist.Normal(0.0, 2**0.5).log_prob(X[:, 0])


@pytest.mark.parametrize(("where", "term"), [("likelihood", "log p(x|z)"), ("prior", "log p(z) − log q(z|x)")])
def test_importance_sampling(where, term):
    found = pv.log_evidence(program(where=where), X, 100, iwae=[5])
    assert found.log_px.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found.log_px[GOOD].float(), TRUTH[GOOD], rtol=0, atol=1e-3)
    assert found.reasons[1] == f"{term} is NaN or infinite in 100 of 100 draws"
    assert found.log_px_mean == pytest.approx(float(TRUTH[GOOD].mean()), abs=1e-3)
    assert found.khat_bad == 0
    record = found.to_record(EvidenceRecord())
    assert (record.num_data, record.num_with_number, record.num_zero) == (3, 2, None)
    assert record.log_px == pytest.approx(float(TRUTH[GOOD].mean()), abs=1e-3)
    assert record.iwae["5"] == pytest.approx(record.log_px, abs=1e-3)
    assert math.isfinite(record.log_px_se)
    assert "1 of 3 rows have no number; row 1: " in repr(found)


@pytest.mark.parametrize("where", ["likelihood", "prior"])
def test_annealing_and_grid(where):
    annealed = pv.annealed_evidence(program(where=where), X, 20, start="prior")
    assert annealed.log_px.isnan().tolist() == [False, True, False]
    assert "16 of 16 chains" in annealed.reasons[1]
    exact = pv.exact_evidence(program(where=where), X)
    assert exact.log_px.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(exact.log_px[GOOD].float(), TRUTH[GOOD], rtol=0, atol=1e-3)
    assert exact.reasons.keys() == {1}
    assert exact.log_px_mc_se == 0


def test_other_rows_keep_their_bits():
    with_nan = pv.log_evidence(program(), X, 100)
    without = pv.log_evidence(program(lambda x: x[:, 0] > 1e9), X, 100)
    assert torch.equal(with_nan.log_px[GOOD], without.log_px[GOOD])


def test_one_draw_of_many():
    """A NaN in some draws makes the row NaN: a mean without them would be of something else."""
    own = program()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = torch.where(z > 2.5, math.nan, z)
            pyro.sample("x", dist.Normal(loc[..., None], 1.0).to_event(1), obs=x)

    found = pv.log_evidence(pv.Program(model, own._guide), torch.tensor([[4.0], [-9.0]]), 1000)
    assert found.log_px.isnan().tolist() == [True, False]
    count = int(found.reasons[0].split(" in ")[1].split(" of ")[0])
    assert 100 < count < 400


def test_all_weights_zero():
    """Every draw outside the prior's support: density zero as far as the draws say, with the reason."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Exponential(1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(-9.0 + 0 * x[:, 0], 0.5))

    found = pv.log_evidence(pv.Program(model, guide), X[GOOD], 50)
    assert found.log_px.tolist() == [-math.inf] * 2
    assert found.outside_share.tolist() == [1.0, 1.0]
    assert "all weights are zero, 50 of 50 draws of the guide outside" in found.reasons[0]
    assert found.khat_bad is None
    record = found.to_record(EvidenceRecord())
    assert (record.log_px, record.num_zero, record.outside_share) == (None, 2, 1.0)


def test_comparisons_take_the_rows_with_a_number():
    a, b = pv.log_evidence(program(), X, 100), pv.log_evidence(program(lambda x: x[:, 0] > 1e9), X, 100)
    table = pv.compare_evidence({"a": a, "b": b})
    assert all(math.isfinite(row.log_px) and math.isfinite(row.behind) for row in table)


PROGRAM = """
import math, pyro, pyro.distributions as dist, torch, pyro_vae as pv

def build(data):
    def model(x):
        weight = pyro.param("weight", torch.tensor(1.0))
        nan = torch.where(x[:, 0] > LIMIT, math.nan, 0.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((weight * z + nan)[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.5**0.5))

    return pv.Program(model, guide)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose program has no number for x above 50, and a file with such a row."""
    folder = tmp_path_factory.mktemp("nan")
    (folder / "program.py").write_text(PROGRAM.replace("LIMIT", "50"))
    (folder / "broken.py").write_text(PROGRAM.replace("LIMIT", "-1e9"))
    np.save(folder / "train.npy", np.random.default_rng(0).standard_normal((200, 1)).astype(np.float32))
    from pyro_vae.workflows.fit_run import fit_run

    fit_run(
        folder / "run",
        program=f"{folder / 'program.py'}:build",
        data=str(folder / "train.npy"),
        epochs=1,
        standardize=False,
    )
    np.save(folder / "new.npy", np.array([[0.5], [1000.0], [-1.0]], dtype=np.float32))
    np.save(folder / "bad.npy", np.array([[900.0], [1000.0]], dtype=np.float32))
    return folder


def command(capsys, *words):
    from pyro_vae.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


def test_score_leaves_the_cells_empty_and_says_so(run, capsys):
    own = ["--program", f"{run / 'program.py'}:build"]
    code, out, err = command(capsys, "score", run / "run", run / "new.npy", *own, "--json", "--false-alarms", 0.2)
    assert code == 0, err
    assert "1 of 3 rows have no log p(x), and an empty cell; row 1: its log density is NaN" in err
    assert '"num_with_number": 2' in out
    table = pandas.read_csv(run / "run" / "scores.csv", dtype=str, keep_default_na=False)
    assert table.loc[1, ["log_px", "percentile", "anomaly"]].tolist() == ["", "", ""]
    assert set(table.loc[[0, 2], "anomaly"]) <= {"0", "1"}
    code, _, err = command(capsys, "score", run / "run", run / "bad.npy", *own, "--false-alarms", 0.2)
    assert code == 1
    assert "2 of 2 rows" in err


def test_evaluate_says_how_many_and_fails_where_all_have_none(run, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, _, err = command(capsys, "evaluate", run / "run", "--program", f"{run / 'broken.py'}:build", "--json")
    assert code == 1
    assert "20 of 20 rows have no number; row 0: log p(x, z) is NaN or infinite in 1000 of 1000 draws" in err
    code, out, err = command(capsys, "evaluate", run / "run", "--program", f"{run / 'program.py'}:build", "--json")
    assert (code, err) == (0, "")
    assert '"num_with_number": null' in out
