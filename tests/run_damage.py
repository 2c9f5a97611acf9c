"""What a changed bit or a cut of a run's file leads to: one reader for each kind of file, and the four outcomes."""

import logging
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import pyro_vae as pv
from pyro_vae import file_digests
from pyro_vae.atomic_write import read_json, read_json_lines, read_tensors
from pyro_vae.file_digests import is_whole_png
from pyro_vae.run_folder import read_config
from pyro_vae.workflows.reference_scores import read_reference_scores

FILES = (
    "config.toml",
    "model.safetensors",
    "metrics.jsonl",
    "evaluation.json",
    "reference.safetensors",
    "checkpoint/state.safetensors",
    "figures/training.png",
)
OUTCOMES = ("refused", "told", "harmless", "silent")


def read_weights(path):
    return pv.load(path.parent).state_dict()


def read_figure(path):
    if not is_whole_png(path.read_bytes()):
        raise pv.InputError(f"{path}: damaged")
    return path.read_bytes()


def read_reference(path):
    found = read_reference_scores(path.parent)
    assert found is not None
    return {"log_px": found.log_px.log_px, "mc_se": found.log_px.mc_se}, found.estimator, found.log_px.measure


READERS = {
    "config.toml": lambda path: read_config(path.parent),
    "model.safetensors": read_weights,
    "metrics.jsonl": lambda path: read_json_lines(path, complete=True),
    "evaluation.json": read_json,
    "reference.safetensors": read_reference,
    "checkpoint/state.safetensors": read_tensors,
    "figures/training.png": read_figure,
}


def is_same(first, second):
    """Whether two contents are equal, tensors bit by bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(is_same(a, b) for a, b in zip(first, second, strict=True))
    return first == second


@contextmanager
def log_lines():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("pyro_vae")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def outcome(name, path, expected):
    """`refused`: by an `InputError` that names the file; `told`: by a note that does; `harmless`; or `silent`."""
    file_digests._noted.clear()
    with log_lines() as lines:
        try:
            found = READERS[name](path)
        except pv.InputError as error:
            return "refused" if path.name in str(error) else f"unnamed: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    if any(path.name in line for line in lines):
        return "told"
    return "harmless" if is_same(found, expected) else "silent"


def flip(content, generator):
    changed = bytearray(content)
    bit = int(generator.integers(8 * len(content)))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(content, generator):
    return content[: int(generator.integers(len(content)))]


def damage_table(run: Path, change, number: int, seed: int = 0) -> dict[str, Counter]:
    """The outcomes of `number` changes, spread over the files of a run, by file."""
    generator, table = np.random.default_rng(seed), {name: Counter() for name in FILES}
    contents = {name: (run / name).read_bytes() for name in FILES}
    expected = {name: READERS[name](run / name) for name in FILES}
    for count in range(number):
        name = FILES[count % len(FILES)]
        try:
            (run / name).write_bytes(change(contents[name], generator))
            table[name][outcome(name, run / name, expected[name])] += 1
        finally:
            (run / name).write_bytes(contents[name])
    return table


def as_markdown(flips, cuts):
    """The table of docs/reliability.md."""
    lines = [
        "| File | Flips | refused | told | harmless | Cuts | refused | told | harmless | Silent |",
        "|---" * 10 + "|",
    ]
    for name in FILES:
        numbers = []
        for table in (flips, cuts):
            numbers += [sum(table[name].values()), *(table[name][kind] for kind in OUTCOMES[:3])]
        silent = flips[name]["silent"] + cuts[name]["silent"]
        lines.append(f"| `{name}` | {' | '.join(map(str, numbers))} | {silent} |")
    return "\n".join(lines)
