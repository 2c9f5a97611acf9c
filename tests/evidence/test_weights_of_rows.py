"""Means and errors of log p(x) over rows with weights: every estimator, records, comparisons and scores."""

import math
import re
from dataclasses import replace

import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli.print_tables import print_comparison, print_record
from pyro_vae.comparison.comparison_table import Fitted
from pyro_vae.data import Measure, Split
from pyro_vae.diagnostics.anomaly_scores import compare_with_reference
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.workflows.evaluate_run import evaluate_split
from pyro_vae.workflows.score_rows import ScoreTotals

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.rand(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
WEIGHTS[[4, 20]] = 0.0


def split(x=X, weights=WEIGHTS, name="test"):
    return Split(name, x, Measure(given=True), weights=weights)


def vae(num_latents=2, seed=0):
    torch.manual_seed(seed)
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(num_latents, 8, 3))
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(3, 8, 2 * num_latents))
    return pv.VAE(pv.priors.StandardNormal(num_latents), likelihood, guide)


def mean(values, weights=WEIGHTS):
    known = weights > 0
    return float((weights[known] * values[known]).sum() / weights.sum())


ESTIMATORS = {
    "importance": lambda program, rows: pv.log_evidence(program, rows, 50, iwae=[5]),
    "with draws of the prior": lambda program, rows: pv.log_evidence(program, rows, 50, prior_share=0.2),
    "exact": pv.exact_evidence,
    "auto": lambda program, rows: pv.auto_evidence(program, rows, 100),
    "modes": lambda program, rows: pv.auto_evidence(program, rows, 100, exact=False),
    "annealed": lambda program, rows: pv.annealed_evidence(program, rows, 10, num_chains=4),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_means_count_the_weights_of_the_split(name):
    program = vae()
    found, plain = (ESTIMATORS[name](program, rows) for rows in (split(), split(weights=None)))
    assert torch.equal(found.log_px, plain.log_px)  # of single rows nothing changes
    assert found.log_px_mean == pytest.approx(mean(plain.log_px), rel=1e-12)
    m, n, w = found.log_px_mean, int((WEIGHTS > 0).sum()), WEIGHTS
    se = math.sqrt(n / (n - 1) * float((w * (plain.log_px - m)).square().sum())) / float(w.sum())
    assert found.log_px_se == pytest.approx(se, rel=1e-9)
    mc = math.sqrt(float((w * plain.mc_se).square().sum())) / float(w.sum())
    assert found.log_px_mc_se == pytest.approx(mc, rel=1e-9)
    record = found.to_record(EvidenceRecord())
    assert record.effective_rows == pytest.approx(float(w.sum() ** 2 / w.square().sum()))
    assert plain.to_record(EvidenceRecord()).effective_rows is None
    if isinstance(found, pv.Evidence):
        for field in ("elbo", "reconstruction", "kl", "smoothed"):
            assert record[field] == pytest.approx(mean(getattr(plain, field)), rel=1e-9)
        for k, bound in plain.iwae.items():
            assert record.iwae[str(k)] == pytest.approx(mean(bound), rel=1e-9)
        assert f"ELBO {record.elbo:.2f}" in repr(found)


def test_the_share_of_bad_khat_counts_weights():
    program = vae(seed=3)
    plain = pv.log_evidence(program, split(3 * X, None), 50)
    bad = ~(plain.khat <= 1 - 1 / math.log10(50))
    assert 0 < int(bad.sum()) < 40
    found = pv.log_evidence(program, split(3 * X), 50)
    assert found.khat_bad == pytest.approx(mean(bad.double()), rel=1e-12)


def test_copies_have_the_same_mean():
    counts = torch.arange(40) % 4
    program = vae()
    weighted = pv.exact_evidence(program, split(weights=counts))
    copies = pv.exact_evidence(program, split(X.repeat_interleave(counts, 0), None))
    assert weighted.log_px_mean == pytest.approx(copies.log_px_mean, rel=1e-6)
    assert weighted.to_record(EvidenceRecord()).effective_rows < len(copies)


def test_equal_weights_are_the_bits_of_no_weights():
    program = vae()
    records = [
        dict(pv.log_evidence(program, split(weights=weights), 50, iwae=[5]).to_record(EvidenceRecord()))
        for weights in (None, torch.full((40,), 0.1))
    ]
    assert records[1].pop("effective_rows") == pytest.approx(40)
    assert records[0].pop("effective_rows") is None
    assert records[0] == records[1]


def test_a_row_of_weight_zero_may_have_any_number():
    log_px = torch.tensor([-1.0, -math.inf, math.nan, -3.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 0.0, 3.0], dtype=torch.float64)
    found = LogPx(log_px=log_px, mc_se=torch.ones(4), measure="m", kind="exact", weights=weights)
    assert (found.log_px_mean, found.num_zero) == (-2.5, 0)
    assert found.log_px_mc_se == pytest.approx(math.sqrt(10) / 4)
    counted = replace(found, weights=torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=torch.float64))
    assert (counted.log_px_mean, counted.num_zero) == (-math.inf, 1)


def test_paired_differences_count_weights():
    one, other = vae(seed=0), vae(seed=1)
    found = {name: pv.exact_evidence(each, split()) for name, each in {"a": one, "b": other}.items()}
    best, worse = pv.compare_evidence(found)
    apart = found[best.name].log_px - found[worse.name].log_px
    assert worse.behind == pytest.approx(mean(apart), rel=1e-12)
    n = int((WEIGHTS > 0).sum())
    se = math.sqrt(n / (n - 1) * float((WEIGHTS * (apart - worse.behind)).square().sum())) / float(WEIGHTS.sum())
    assert worse.behind_se == pytest.approx(se, rel=1e-9)
    assert best.log_px == found[best.name].log_px_mean


def test_other_weights_are_not_compared():
    program = vae()
    found = {"a": pv.exact_evidence(program, split()), "b": pv.exact_evidence(program, split(weights=None))}
    with pytest.raises(InputError, match="different weights"):
        pv.compare_evidence(found)


def test_a_comparison_counts_weights(capsys):
    rows = split()
    programs = [Fitted("vae", "svi", vae(seed=0)), Fitted("other", "svi", vae(seed=1))]
    table = pv.compare(programs, rows, method="is", num_samples=50)
    for row in table:
        program = next(one.program for one in programs if one.name == row.name)
        found = pv.log_evidence(program, split(weights=None), 50)
        assert row.log_px == pytest.approx(mean(found.log_px), rel=1e-9)
        assert row.bound == pytest.approx(mean(found.elbo), rel=1e-9)
        assert row.kl == pytest.approx(mean(found.kl), rel=1e-9)
        assert row.effective_rows == pytest.approx(float(WEIGHTS.sum() ** 2 / WEIGHTS.square().sum()))
    assert table[1].behind == pytest.approx(table[0].log_px - table[1].log_px, rel=1e-6)
    print_comparison(table, rows)
    assert re.search(r"40 test rows, weighted \(as many as \d+ of equal weight\)", capsys.readouterr().out)


def test_an_evaluation_counts_weights(tmp_path, capsys):
    record, _ = evaluate_split(vae(), split(), tmp_path)
    found = pv.auto_evidence(vae(), split(weights=None))
    assert record.log_px == pytest.approx(mean(found.log_px), rel=1e-9)
    assert record.elbo is not None
    print_record(record, "title")
    assert "over 40 rows, weighted (as many as" in capsys.readouterr().out


def test_sums_of_scores_count_weights():
    """Chunks of rows, one of them without a row that counts, add up to the weighted mean."""
    weights = torch.cat([torch.rand(20, generator=torch.Generator().manual_seed(5)), torch.zeros(10), torch.ones(10)])
    rows, reference = split(weights=weights), pv.log_evidence(vae(), split(-X, None), 50)
    totals = ScoreTotals()
    for part in rows.chunks(10):
        start = len(totals.lowest)
        found = compare_with_reference(pv.log_evidence(vae(), part, 50), reference, 0.1)
        totals.add(found, part, rows.relative_weights[part.source_index(slice(None))])
        assert len(totals.lowest) >= start
    each = torch.cat([pv.log_evidence(vae(), part, 50).log_px for part in rows.chunks(10)])
    assert totals.log_px / totals.weight == pytest.approx(mean(each, weights.double()), rel=1e-6)
