"""Estimators by name: their options, what belongs to which, and one more that a user adds."""

import json

import pytest
import torch

import pyro_vae as pv
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS, Estimator, EvidenceMethod
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.options import Option
from pyro_vae.workflows.evaluate_run import evaluate_split


def constant(program, data, *, memory_mib, seed, group, level):
    values = torch.full((len(data),), level, dtype=torch.float64)
    return LogPx(log_px=values, mc_se=torch.zeros_like(values), measure="given", kind="estimate")


def test_options_belong_to_methods():
    assert set(EVIDENCE_METHODS.owned_options()) == {"prior_share", "temperatures", "chains", "start"}
    assert Estimator("is", options={"prior_share": 0.1}).label == " prior-share 0.1"
    assert Estimator("ais").label == " ais"
    with pytest.raises(pv.InputError, match="--prior-share belongs to --method is"):
        Estimator("ais", options={"prior_share": 0.1})
    with pytest.raises(pv.InputError, match="no method called 'nested'"):
        Estimator("nested")
    with pytest.raises(pv.InputError, match="chains must be one or more"):
        Estimator("ais", options={"chains": 0})


def test_a_method_is_one_function_and_one_entry(monkeypatch, tmp_path):
    entries = dict(EVIDENCE_METHODS)
    level = Option("level", float, -2.0, "what every row has.")
    entries["constant"] = EvidenceMethod("constant", f"{__name__}:constant", "the same for all rows", (level,))
    monkeypatch.setattr(EVIDENCE_METHODS, "_entries", entries)
    estimator = Estimator("constant", num_samples=20, options={"level": -3.0})
    data = pv.load_data("digits").test.head(5)
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64)), guide)
    record, _ = evaluate_split(vae, data, tmp_path, estimator)
    assert (record.method, record.log_px, record.log_px_kind) == ("constant", -3.0, "estimate")
    assert record.gap == record.log_px - record.elbo


def test_a_record_is_the_json_that_is_printed():
    record = EvidenceRecord(run="r", fit_method="em", elbo=-1.0)
    assert record.way == record["way"] == "em"
    assert list(record)[:5] == ["run", "model", "way", "fit_method", "split"]
    assert EvidenceRecord.from_dict(json.loads(json.dumps(dict(record)))) == record
    assert EvidenceRecord.from_dict({"way": "svi", "unknown": 1}).fit_method == "svi"
