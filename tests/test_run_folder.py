"""What lies on disk: whole or not at all, and never code."""

import json
import subprocess
import sys
import tomllib

import pytest
import torch

import pyro_vae as pv
from pyro_vae import atomic_write
from pyro_vae.atomic_write import read_json_lines, read_tensors, read_toml, write_atomic, write_tensors, write_toml
from pyro_vae.constructor_args import RENAMED
from pyro_vae.data.columns import Column, Schema
from pyro_vae.run_folder import FORMAT, new_run, read_config
from pyro_vae.serialization import from_recipe, to_recipe


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(atomic_write.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_recipe_is_plain_data_and_names_our_parts_alone(tiny_vae, tmp_path):
    vae, _ = tiny_vae
    pv.save(vae, tmp_path)
    recipe = tomllib.loads((tmp_path / "config.toml").read_text())["program"]
    assert recipe["make"] == "models.vae.VAE"
    assert recipe["guide"]["net"] == {"make": "nets.mlp", "sizes": [6, 8, 4], "activation": "tanh"}
    recipe["guide"]["net"]["make"] = "os.system"
    with pytest.raises(pv.InputError, match=r"no part called 'os\.system'"):
        from_recipe(recipe)


def test_recipes_of_earlier_versions_name_renamed_parts():
    schema = Schema((Column("a", "real"), Column("b", "count")), coding="columns")
    conditional = {"prior": pv.priors.StandardNormal(2), "likelihood": pv.likelihoods.Normal(pv.nets.mlp(4, 3))}
    conditional |= {"guide": pv.guides.MeanFieldNormal(pv.nets.mlp(5, 4)), "num_labels": 2}
    columns = pv.nets.mlp(2, pv.likelihoods.Columns.num_outputs(schema))
    parts = {
        "likelihoods.Columns": pv.likelihoods.Columns(columns, schema),
        "likelihoods.MultivariateNormal": pv.likelihoods.MultivariateNormal(pv.nets.mlp(2, 6), 3),
        "models.conditional_vae.ConditionalVAE": pv.ConditionalVAE(**conditional),
        "guides.CategoricalGuide": pv.guides.CategoricalGuide(pv.nets.mlp(6, 3)),
        "guides.MaskAwareGuide": pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(12, 4))),
        "guides.PerRowCategorical": pv.guides.PerRowCategorical(num_rows=5, num_components=3),
    }
    inner = {"data.columns.column.Column": "data.columns.Column", "data.columns.schema.Schema": "data.columns.Schema"}
    text = json.dumps(to_recipe(parts["likelihoods.Columns"]))
    for new, old in inner.items():
        assert new in text
        text = text.replace(new, old)
    assert from_recipe(json.loads(text)).grouping == parts["likelihoods.Columns"].grouping
    assert set(RENAMED.values()) == set(parts) | set(inner)
    for old, new in RENAMED.items():
        if new in inner:
            continue
        recipe = to_recipe(parts[new])
        assert recipe["make"] == new
        loaded = from_recipe(recipe | {"make": old})
        assert type(loaded) is type(parts[new])
        assert to_recipe(loaded) == recipe


def test_a_part_used_twice_is_one_part_after_loading(tiny_vae):
    vae, _ = tiny_vae
    net = pv.nets.mlp(6, 6)
    shared = pv.VAE(vae.prior, pv.likelihoods.Bernoulli(net), pv.guides.MeanFieldNormal(net))
    again = from_recipe(to_recipe(shared))
    assert again.likelihood.net is again.posterior.net


def test_a_users_subclass_is_not_taken_for_its_base(tiny_vae):
    vae, _ = tiny_vae

    class Mine(pv.priors.StandardNormal):
        pass

    with pytest.raises(pv.InputError, match=r"program.prior is .*Mine, which is not one of this package's parts"):
        to_recipe(pv.VAE(Mine(2), vae.likelihood, vae.posterior))


def test_what_cannot_be_loaded_says_why(tiny_vae, tmp_path):
    vae, _ = tiny_vae
    with pytest.raises(pv.InputError, match="is not a run"):
        pv.load(tmp_path)
    pv.save(vae, tmp_path)
    other = pv.VAE(vae.prior, pv.likelihoods.Bernoulli(pv.nets.mlp(2, 9, 6)), vae.posterior)
    with pytest.raises(pv.InputError, match="the saved weights do not fit this program"):
        pv.load(tmp_path, build=lambda: other)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(pv.InputError, match="no readable weights there"):
        pv.load(tmp_path)
    (tmp_path / "config.toml").write_text("= not toml")
    with pytest.raises(pv.InputError, match="not readable as TOML"):
        pv.load(tmp_path)


def test_new_runs_never_share_a_folder(tmp_path):
    folders = {new_run(tmp_path, "digits") for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.name.startswith("digits-") for folder in folders)


def test_tensors_keep_their_types_and_bits(tmp_path):
    tensors = {"a": torch.randn(3, dtype=torch.float64), "b": torch.tensor(True), "c": torch.arange(3)}
    write_tensors(tmp_path / "t", tensors, {"epoch": 3, "value": 0.1 + 0.2})
    found, about = read_tensors(tmp_path / "t")
    assert all(torch.equal(value, found[name]) and value.dtype == found[name].dtype for name, value in tensors.items())
    assert about == {"epoch": 3, "value": 0.1 + 0.2}


def test_a_program_changed_after_it_was_made_has_no_recipe(tiny_vae, tmp_path):
    """A recipe of what was constructed would bring back another model with the same weights, and other numbers."""
    vae, _ = tiny_vae
    normal = pv.VAE(vae.prior, pv.likelihoods.Normal(pv.nets.mlp(2, 6), scale=0.5), vae.posterior)
    normal.likelihood.scale = 0.3
    with pytest.raises(pv.InputError, match=r"program\.likelihood was changed after it was made"):
        to_recipe(normal)
    vae.posterior.net[1] = torch.nn.ReLU()
    pv.save(vae, tmp_path)
    with pytest.raises(pv.InputError, match=r"posterior\.net\.1 was changed"):
        pv.load(tmp_path)


def test_saving_over_an_older_save_leaves_nothing_of_it(tiny_vae, tmp_path):
    vae, _ = tiny_vae
    pv.save(vae, tmp_path)
    pv.save(pv.VAE(vae.prior, vae.likelihood, torch.nn.Identity()), tmp_path)
    with pytest.raises(pv.InputError, match=r"load it with pv\.load"):
        pv.load(tmp_path)


def test_a_line_that_was_being_written_is_not_read(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"epoch": 1}\n{"epo')
    assert read_json_lines(tmp_path / "m.jsonl") == [{"epoch": 1}]


def test_loading_is_the_first_thing_a_process_does(tiny_vae, tmp_path):
    """Parts are known to recipes once their modules are imported, which loading has to see to."""
    pv.save(tiny_vae[0], tmp_path)
    code = f"import pyro_vae; print(type(pyro_vae.load({str(tmp_path)!r})).__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "VAE", run.stderr


FORMATS = {  # what `about` says, and the refusal or note that follows
    "nothing, as 0.1.0": ({}, None),
    "this one": ({"format": FORMAT, "pyro_vae": pv.__version__}, None),
    "a later one": (
        {"format": FORMAT + 1, "pyro_vae": "9.0.0"},
        rf"format {FORMAT + 1} of a later version \(9\.0\.0\)",
    ),
    "no number": ({"format": "9.0.0"}, r"format 9\.0\.0 of a later version"),
    "a later version that names none": ({"pyro_vae": "9.0.0"}, r"written by pyro-vae 9\.0\.0, a later version"),
}


def save_with_about(program, folder, about):
    """A saved program whose `config.toml` says something else about itself."""
    pv.save(program, folder)
    write_toml(folder / "config.toml", read_toml(folder / "config.toml") | {"about": about})


@pytest.mark.parametrize("case", FORMATS)
def test_a_run_of_a_later_format_is_refused(case, tiny_vae, tmp_path):
    about, refusal = FORMATS[case]
    save_with_about(tiny_vae[0], tmp_path, about)
    if refusal is None:
        assert isinstance(pv.load(tmp_path), pv.VAE)
        return
    with pytest.raises(pv.InputError, match=refusal):
        pv.load(tmp_path)


def test_a_run_of_a_later_version_with_a_known_format_is_noted(tiny_vae, tmp_path, caplog):
    save_with_about(tiny_vae[0], tmp_path, {"format": FORMAT, "pyro_vae": "9.0.0"})
    assert isinstance(pv.load(tmp_path), pv.VAE)
    assert "was written by pyro-vae 9.0.0" in caplog.text


def test_a_saved_program_names_its_format_and_version(tiny_vae, tmp_path):
    pv.save(tiny_vae[0], tmp_path)
    assert read_config(tmp_path)["about"] == {"format": FORMAT, "pyro_vae": pv.__version__}
