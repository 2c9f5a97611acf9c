"""The prepared files of `bad_input.py`: small fitted runs, strange variants of them, and data that cannot be used."""

import copy
import io
import math
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from pyro_vae.atomic_write import read_json, read_tensors, read_toml, write_json, write_tensors, write_toml
from pyro_vae.file_digests import add_toml_digest
from pyro_vae.workflows.fit_run import fit_run

Config = dict[str, Any]
HUGE = 100_000_000
PROGRAM = """import torch
import pyro_vae as pv

def build(data):  # of torch's own networks, which no recipe rebuilds
    nets = torch.nn.Linear(2, 3), torch.nn.Linear(3, 4)
    return pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(nets[0]), pv.guides.MeanFieldNormal(nets[1]))

def other(data):
    nets = pv.nets.mlp(2, 9, 3), pv.nets.mlp(3, 9, 4)
    return pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(nets[0]), pv.guides.MeanFieldNormal(nets[1]))

def raises(data):
    raise ValueError("two\\nlines")

def asks(data, more):
    return build(data)

def ends(data):
    raise SystemExit(0)

def nothing(data):
    return None

a_value = 3
"""
PROGRAMS: dict[str, str | bytes] = {
    "syntax.py": "def build(:\n    pass\n",
    "exits.py": "import sys\nsys.exit(0)\n",
    "exits_1.py": "raise SystemExit('over')\n",
    "raises.py": "raise RuntimeError('at import')\n",
    "absent.py": "import a_module_that_does_not_exist\n",
    "zeros.py": "\x00\x00",
    "latin.py": "# \xfc\n".encode("latin-1"),
    "recursion.py": "def f():\n    f()\nf()\n",
    "text.txt": "def build(data):\n    pass\n",
}


def prepare(folder: Path) -> None:
    """Make everything in a new folder."""
    prepare_small(folder)
    _write_large_data(folder / "bad")
    small: dict[str, Any] = {"epochs": 1, "hidden": (4,), "latent_dim": 2, "seed": 0}
    fit_run(folder / "run", data=str(folder / "rows.csv"), **small)
    fit_run(folder / "pictures_run", data=str(folder / "pictures"), **small)
    fit_run(folder / "own_run", data=str(folder / "rows.csv"), program=f"{folder / 'own.py'}:build", epochs=1, seed=0)
    _write_runs(folder)


def prepare_small(folder: Path) -> None:
    """Make what takes no time and no room: no runs, no large files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    values = generator.normal(size=(120, 2)) @ generator.normal(size=(2, 3)) + 0.1 * generator.normal(size=(120, 3))
    np.savetxt(folder / "rows.csv", values, delimiter=",", header="a,b,c", comments="")
    np.save(folder / "rows.npy", values)
    _write_images(folder / "pictures", generator)
    (folder / "own.py").write_text(PROGRAM, encoding="utf-8")
    for name, text in PROGRAMS.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    _write_data(folder / "bad", values)
    _write_configs(folder / "configs")
    (folder / "empty_folder").mkdir()
    (folder / "a_folder.csv").mkdir()
    (folder / "a_file").write_text("no folder", encoding="utf-8")


def _write_images(folder: Path, generator: np.random.Generator) -> None:
    from PIL import Image

    folder.mkdir()
    for number in range(20):
        Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{number:02}.png")


def _npy(shape: str, dtype: str = "<f8", content: bytes = bytes(240)) -> bytes:
    """A `.npy` file whose header says what it is told to say."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def _npz(arrays: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            archive.writestr(name, array)
    return content.getvalue()


def _zip_of_zeros(name: bytes, header: bytes, size: int) -> bytes:
    """A zip whose only member says to unpack to a header and about so many zeros, and does."""
    packer = zlib.compressobj(9, wbits=-15)
    begin = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**22)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = begin + block * (size // 2**22) + packer.flush()
    unpacked = len(header) + size // 2**22 * 2**22
    about = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(packed), unpacked, len(name), 0)
    local = b"PK\x03\x04" + about + name + packed
    central = b"PK\x01\x02" + struct.pack("<H", 20) + about + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


def _png(width: int, height: int, depth: int = 8, colour: int = 2, num_rows: int | None = None) -> bytes:
    """A PNG of zeros, whose pixels take a thousandth of their size, cut off after some of its rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = 1 + width * {0: 1, 2: 3, 6: 4}[colour] * depth // 8
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(row)) for _ in range(num_rows or height)) + packer.flush()
    about = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _array(values: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=True)
    return content.getvalue()


def _write_data(folder: Path, values: np.ndarray) -> None:
    """Data that cannot be used."""
    folder.mkdir()
    table = ("a,b,c\n" + "".join(f"{a:.3f},{b:.3f},{c:.3f}\n" for a, b, c in values)).encode()
    npz = _npz({"x.npy": _array(values)})
    files: dict[str, bytes] = {
        "no_rows.npy": _array(np.zeros((0, 3))),
        "no_columns.npy": _array(np.zeros((40, 0))),
        "one_row.npy": _array(np.zeros((1, 3))),
        "a_number.npy": _array(np.array(3.0)),
        "one_axis.npy": _array(np.zeros(40)),
        "five_axes.npy": _array(np.zeros((10, 2, 2, 2, 2))),
        "objects.npy": _array(np.array([[1, "a"], [None, 2]], dtype=object)),
        "texts.npy": _array(np.array([["a", "b"]] * 20)),
        "records.npy": _array(np.zeros(20, dtype=[("a", "f8"), ("b", "i4")])),
        "complex.npy": _array(np.ones((40, 3)) + 1j),
        "dates.npy": _array(np.zeros((40, 3), dtype="datetime64[s]")),
        "infinite.npy": _array(np.full((40, 3), np.inf)),
        "one_infinite.npy": _array(np.where(np.arange(120).reshape(40, 3) == 7, np.inf, 1.0)),
        "nan.npy": _array(np.full((40, 3), np.nan)),
        "huge_numbers.npy": _array(np.full((40, 3), 1e308) * (np.arange(-20, 20)[:, None] / 20)),
        "header_of_1e12_rows.npy": _npy("(1000000000000, 3)"),
        "header_of_more_rows.npy": _npy("(40, 3)"),
        "header_of_1e12_columns.npy": _npy("(40, 1000000000000)"),
        "header_of_negative_rows.npy": _npy("(-40, 3)"),
        "header_of_floats.npy": _npy("(4.5, 3)"),
        "header_of_text.npy": _npy("('a', 3)"),
        "header_of_nothing.npy": _npy("None"),
        "header_of_code.npy": _npy("__import__('os').getcwd()"),
        "header_of_many_axes.npy": _npy(str((1,) * 70)),
        "header_of_another_type.npy": _npy("(10, 3)", "|O8"),
        "header_of_no_type.npy": _npy("(10, 3)", "nothing"),
        "header_of_wide_text.npy": _npy("(10, 3)", "<U1000000000"),
        "version_9.npy": _npy("(10, 3)").replace(b"\x01\x00", b"\x09\x00", 1),
        "cut.npy": _array(values)[:-50],
        "cut_header.npy": _array(values)[:40],
        "noise.npy": bytes(range(256)) * 4,
        "empty.npy": b"",
        "is_npz.npy": npz,
        "is_npy.npz": _array(values),
        "cut.npz": npz[: len(npz) // 2],
        "noise.npz": bytes(range(256)) * 4,
        "two_arrays.npz": _npz({"a.npy": _array(values), "b.npy": _array(values)}),
        "no_arrays.npz": _npz({}),
        "text_inside.npz": _npz({"x.npy": b"text"}),
        "objects_inside.npz": _npz({"x.npy": _array(np.array([[None]] * 20))}),
        "header_of_1e12_rows.npz": _npz({"x.npy": _npy("(1000000000000, 3)")}),
        "labels_of_another_length.npz": _npz({"x.npy": _array(values), "y.npy": _array(np.zeros(7))}),
        "labels_of_two_axes.npz": _npz({"x.npy": _array(values), "y.npy": _array(np.zeros((120, 2)))}),
        "sparse_shape_of_1e12.npz": _sparse([10**12, 10**12]),
        "sparse_wrong_indices.npz": _sparse([40, 3], indices=[99] * 3),
        "sparse_wrong_indptr.npz": _sparse([40, 3], indptr=[0, 10**9]),
        "sparse_no_format.npz": _sparse([40, 3], kind="abc"),
        "sparse_complex.npz": _sparse([40, 3], data=np.ones(3) * 1j),
        "empty.csv": b"",
        "header_only.csv": b"a,b,c\n",
        "one_row.csv": b"a,b,c\n1,2,3\n",
        "ragged.csv": b"a,b,c\n1,2\n3,4,5,6\n" * 10,
        "twice.csv": b"a,a,c\n" + b"1,2,3\n" * 40,
        "constant_and_empty.csv": b"a,b\n" + b",\n" * 40,
        "zero_bytes.csv": b"a,b\n" + b"\x00,\x00\n" * 40,
        "noise.csv": bytes(range(256)) * 8,
        "open_quote.csv": b'a,b\n"1,2\n' + b"3,4\n" * 40,
        "infinite.csv": b"a,b\n" + b"inf,1\n-inf,2\n" * 20,
        "long_line.csv": b"a" * 10**7,
        "utf16.csv": b"\xff\xfe" + b"a\x00,\x00b",
        "cut.csv.gz": b"\x1f\x8b\x08\x00" + bytes(20),
        "noise.csv.bz2": bytes(range(256)),
        "noise.csv.xz": bytes(range(256)),
        "noise.csv.zip": bytes(range(256)),
        "two_tables.csv.zip": _npz({"a.csv": table, "b.csv": table}),
        "noise.parquet": bytes(range(256)) * 4,
        "ends_like_one.parquet": b"PAR1" + bytes(200) + b"\xff\xff\xff\x7fPAR1",
        "empty.parquet": b"",
        "noise.feather": bytes(range(256)) * 4,
        "noise.arrow": b"ARROW1\x00\x00" + bytes(100),
        "noise.xlsx": bytes(range(256)) * 4,
        "zip.xlsx": npz,
        "noise.h5ad": bytes(range(256)) * 4,
        "rows.xls": b"old",
        "rows.pkl": b"cos\nsystem\n(S'true'\ntR.",
        "rows.txt": table,
        "rows": table,
        "one_gap.csv": table + b",1.0,2.0\n",
        "noise.png": bytes(range(256)) * 4,
        "wide.png": _png(60_000, 60_000, colour=0, num_rows=20),
        "16_bits.png": _png(8, 8, 16, 0),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "unlike_sizes").mkdir()
    for index in range(3):
        (folder / "unlike_sizes" / f"{index}.png").write_bytes(_png(8 + index, 9))
    (folder / "no_pictures").mkdir()
    (folder / "no_pictures" / "a.txt").write_text("text", encoding="utf-8")
    (folder / "noise_pictures").mkdir()
    for index in range(20):
        (folder / "noise_pictures" / f"{index}.png").write_bytes(_png(8, 8)[: 40 + index])


def _write_large_data(folder: Path) -> None:
    """Data that is larger than memory is, or than a table may be."""
    numbers, names = b",".join([b"1"] * 10**6), b",".join(f"c{i}".encode() for i in range(10**6))
    (folder / "million_columns.csv").write_bytes(b"\n".join([numbers] * 12) + b"\n")
    (folder / "million_names.csv").write_bytes(names + b"\n" + numbers)
    header = _npy("(500000, 1000)", content=b"")
    (folder / "unpacks_to_4_GB.npz").write_bytes(_zip_of_zeros(b"x.npy", header, 4_002_000_000))
    (folder / "unpacks_to_4_GB.csv.zip").write_bytes(_zip_of_zeros(b"a.csv", b"a,b\n1,", 4_002_000_000))
    (folder / "large_pictures").mkdir()
    picture = _png(12_000, 13_000)
    for index in range(12):
        (folder / "large_pictures" / f"{index}.png").write_bytes(picture)


def _sparse(
    shape: list[int], indices: Any = (0, 1, 2), indptr: Any = None, kind: str = "csr", data: Any = None
) -> bytes:
    """A file as `scipy.sparse.save_npz` writes them."""
    rows = min(shape[0], 40)
    arrays = {
        "format": np.array(kind.encode()),
        "shape": np.array(shape),
        "data": np.ones(3) if data is None else data,
        "indices": np.array(indices),
        "indptr": np.array([0, 1, 2, *[3] * (rows - 2)] if indptr is None else indptr),
    }
    return _npz({f"{name}.npy": _array(array) for name, array in arrays.items()})


CONFIGS: dict[str, str] = {
    "epochs_1_9": "epochs = 1.9",
    "epochs_true": "epochs = true",
    "epochs_text": 'epochs = "3"',
    "epochs_list": "epochs = [3]",
    "epochs_nan": "epochs = nan",
    "epochs_infinite": "epochs = inf",
    "epochs_table": "[training.epochs]\nvalue = 3",
    "epochs_date": "epochs = 2020-01-01",
    "latent_dim_2_9": "latent_dim = 2.9",
    "latent_dim_true": "latent_dim = true",
    "latent_dim_1e12": "latent_dim = 1000000000000",
    "learning_rate_text": 'learning_rate = "fast"',
    "learning_rate_nan": "learning_rate = nan",
    "learning_rate_true": "learning_rate = true",
    "hidden_text": 'hidden = "a"',
    "hidden_floats": "hidden = [1.5]",
    "hidden_true": "hidden = [true]",
    "hidden_nested": "hidden = [[4]]",
    "hidden_empty": "hidden = []",
    "hidden_1e12": "hidden = [1000000000000]",
    "prior_number": "prior = 3",
    "prior_list": 'prior = ["vamp"]',
    "prior_unknown": 'prior = "none"',
    "dreg_number": 'loss = "iwae"\ndreg = 1',
    "dreg_text": 'loss = "iwae"\ndreg = "no"',
    "gray_text": 'gray = "no"',
    "standardize_text": 'standardize = "no"',
    "standardize_number": "standardize = 0",
    "data_number": "data = 3",
    "data_list": 'data = ["rows.csv"]',
    "column_numbers": "column = [1]",
    "id_numbers": "id = [1]",
    "label_number": "label = 3",
    "label_list": 'label = ["a"]',
    "image_shape_text": 'image_shape = "big"',
    "image_shape_floats": "image_shape = [8.5, 8]",
    "image_shape_negative": "image_shape = [-8, -8]",
    "seed_float": "seed = 0.5",
    "seed_1e30": "seed = 1000000000000000000000000000000",
    "seed_text": 'seed = "a"',
    "compile_text": 'compile = "no"',
    "device_number": "device = 3",
    "dtype_number": "dtype = 32",
    "scale_text": 'scale = "big"',
    "scale_list": "scale = [1.0]",
    "scale_true": "scale = true",
    "program_key": 'program = "own.py:build"',
    "out_key": 'out = "new"',
    "resume_key": 'resume = "run"',
    "unknown_key": "epoks = 3",
    "unknown_table": "[trainig]\nepochs = 3",
    "table_as_value": "training = 3",
    "group_as_list": "[[training]]\nepochs = 3",
    "about_as_text": 'about = "a"',
    "about_program_list": '[about]\nprogram = ["a"]',
    "twice": "epochs = 3\nepochs = 4",
    "twice_by_dashes": "batch-size = 3\nbatch_size = 4",
    "twice_in_table": "epochs = 3\n[training]\nepochs = 4",
    "not_toml": "epochs = = 3",
    "deep": "a = " + "[" * 100_000 + "]" * 100_000,
    "deep_table": "[" + ".".join(["a"] * 50_000) + "]\n",
    "long_number": "epochs = " + "9" * 5000,
    "zero_bytes": "epochs = 3\x00",
    "escapes": '"\\u001b[31mred\\u001b[0m" = 3',
    "schema_text": 'schema = "own.py"',
    "clip_zero": "clip = 0",
    "clip_text": 'clip = "no"',
    "patience_true": "patience = true",
    "patience_1_5": "patience = 1.5",
    "batch_size_2_5": "batch_size = 2.5",
    "num_particles_1_5": "num_particles = 1.5",
    "components_1_5": 'prior = "mixture"\ncomponents = 1.5',
    "beta_text": 'beta = "warm"',
    "beta_true": "beta = true",
    "kl_warmup_infinite": "kl_warmup = inf",
}


def _write_configs(folder: Path) -> None:
    folder.mkdir()
    for name, text in CONFIGS.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    (folder / "latin.toml").write_bytes("label = 'ü'\n".encode("latin-1"))
    (folder / "a_folder.toml").mkdir()


def _set(*path: str | int, to: object) -> Callable[[Config], None]:
    """A change of a configuration: a value at a path of keys."""

    def change(config: Config) -> None:
        at: Any = config
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return change


def _remove(*path: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        at: Any = config
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


def _nested(depth: int) -> Config:
    """A recipe inside a recipe, so many times."""
    found: Config = {"make": "nets.mlp", "sizes": [2, 4, 6]}
    for _ in range(depth):
        found = {"make": "nets.log1p", "net": found}
    return found


NET = ("program", "likelihood", "net")
RECIPES: dict[str, Callable[[Config], None]] = {  # what a stranger's config.toml may say of its program
    "recipe_text": _set("program", to="a VAE"),
    "recipe_list": _set("program", to=[1, 2]),
    "recipe_number": _set("program", to=3),
    "recipe_empty": _set("program", to={}),
    "recipe_without_make": _remove("program", "make"),
    "recipe_part_without_make": _remove("program", "prior", "make"),
    "recipe_make_number": _set("program", "make", to=3),
    "recipe_make_list": _set("program", "make", to=["models.vae.VAE"]),
    "recipe_make_table": _set("program", "make", to={"make": "nets.mlp"}),
    "recipe_make_unknown": _set("program", "make", to="models.vae.GAN"),
    "recipe_make_os": _set("program", "make", to="os.system"),
    "recipe_make_dunder": _set("program", "make", to="__import__"),
    "recipe_make_escape": _set("program", "make", to="\x1b[31mred\x1b[0m"),
    "recipe_is_a_part": _set("program", to={"make": "priors.StandardNormal", "num_latents": 2}),
    "recipe_is_a_net": _set("program", to={"make": "nets.mlp", "sizes": [3, 4, 4]}),
    "recipe_unknown_argument": _set("program", "colour", to=3),
    "recipe_missing_argument": _remove("program", "guide"),
    "recipe_part_missing_argument": _remove("program", "prior", "num_latents"),
    "recipe_same_as_unknown": _set("program", "guide", to={"same_as": "program.nothing"}),
    "recipe_same_as_number": _set("program", "guide", to={"same_as": 3}),
    "recipe_same_as_list": _set("program", "guide", to={"same_as": [1]}),
    "recipe_same_as_itself": _set("program", "guide", to={"same_as": "program.guide"}),
    "recipe_latents_1e8": _set("program", "prior", "num_latents", to=HUGE),
    "recipe_latents_2e9": _set("program", "prior", "num_latents", to=2_000_000_000),
    "recipe_latents_1e12": _set("program", "prior", "num_latents", to=10**12),
    "recipe_latents_text": _set("program", "prior", "num_latents", to="two"),
    "recipe_latents_float": _set("program", "prior", "num_latents", to=2.5),
    "recipe_latents_negative": _set("program", "prior", "num_latents", to=-2),
    "recipe_latents_true": _set("program", "prior", "num_latents", to=True),
    "recipe_other_latents": _set("program", "prior", "num_latents", to=3),
    "recipe_components_1e8": _set(
        "program", "prior", to={"make": "priors.MixtureOfNormals", "num_latents": 2, "num_components": HUGE}
    ),
    "recipe_components_2e9": _set(
        "program", "prior", to={"make": "priors.MixtureOfNormals", "num_latents": 2, "num_components": 2_000_000_000}
    ),
    "recipe_width_1e8": _set(*NET, "sizes", to=[2, HUGE, 6]),
    "recipe_width_2e9": _set(*NET, "sizes", to=[2, 2_000_000_000, 6]),
    "recipe_width_1e5_squared": _set(*NET, "sizes", to=[2, 100_000, 100_000, 6]),
    "recipe_width_1e15": _set(*NET, "sizes", to=[2, 10**15, 6]),
    "recipe_200000_layers": _set(*NET, "sizes", to=[2, *[1] * 200_000, 6]),
    "recipe_sizes_text": _set(*NET, "sizes", to="big"),
    "recipe_sizes_floats": _set(*NET, "sizes", to=[2.5, 4, 6]),
    "recipe_sizes_texts": _set(*NET, "sizes", to=["a", "b"]),
    "recipe_sizes_negative": _set(*NET, "sizes", to=[2, -4, 6]),
    "recipe_sizes_zero": _set(*NET, "sizes", to=[2, 0, 6]),
    "recipe_sizes_empty": _set(*NET, "sizes", to=[]),
    "recipe_sizes_number": _set(*NET, "sizes", to=4),
    "recipe_sizes_tables": _set(*NET, "sizes", to=[{"make": "nets.mlp", "sizes": [1, 1]}] * 3),
    "recipe_other_sizes": _set(*NET, "sizes", to=[2, 5, 6]),
    "recipe_one_layer_more": _set(*NET, "sizes", to=[2, 4, 4, 6]),
    "recipe_activation_unknown": _set(*NET, "activation", to="none"),
    "recipe_activation_number": _set(*NET, "activation", to=3),
    "recipe_activation_list": _set(*NET, "activation", to=["tanh"]),
    "recipe_net_number": _set(*NET, to=3),
    "recipe_net_text": _set(*NET, to="nets.mlp"),
    "recipe_net_is_prior": _set(*NET, to={"make": "priors.StandardNormal", "num_latents": 2}),
    "recipe_net_list": _set(*NET, to=[{"make": "nets.mlp", "sizes": [2, 4, 6]}]),
    "recipe_guide_is_prior": _set("program", "guide", to={"make": "priors.StandardNormal", "num_latents": 2}),
    "recipe_prior_is_guide": _set("program", "prior", to={"make": "guides.MeanFieldNormal", "net": _nested(0)}),
    "recipe_scale_text": _set("program", "likelihood", "scale", to="big"),
    "recipe_scale_negative": _set("program", "likelihood", "scale", to=-1.0),
    "recipe_scale_nan": _set("program", "likelihood", "scale", to=math.nan),
    "recipe_scale_list": _set("program", "likelihood", "scale", to=[1.0]),
    "recipe_floor_text": _set("program", "likelihood", "floor", to="low"),
    "recipe_floor_nan": _set("program", "likelihood", "floor", to=math.nan),
    "recipe_depth_200": _set(*NET, to=_nested(200)),
}
SETTINGS: dict[str, Callable[[Config], None]] = {  # and of everything else
    "no_about": _remove("about"),
    "about_text": _set("about", to="a"),
    "about_list": _set("about", to=[1]),
    "format_text": _set("about", "format", to="new"),
    "format_later": _set("about", "format", to=99),
    "format_list": _set("about", "format", to=[1]),
    "num_features_text": _set("about", "num_features", to="three"),
    "num_features_1e12": _set("about", "num_features", to=10**12),
    "num_features_other": _set("about", "num_features", to=4),
    "num_features_missing": _remove("about", "num_features"),
    "no_measure": _remove("measure"),
    "measure_text": _set("measure", to="a"),
    "measure_unknown_key": _set("measure", "colour", to=3),
    "measure_binarize": _set("measure", "binarize", to="always"),
    "measure_levels_text": _set("measure", "levels", to="many"),
    "measure_levels_zero": _set("measure", "levels", to=0),
    "measure_one_scale": _set("measure", "scale", to=[1.0]),
    "measure_four_scales": _set("measure", "scale", to=[1.0] * 4),
    "measure_one_shift": _set("measure", "shift", to=[1.0]),
    "measure_no_shift": _set("measure", "shift", to=[]),
    "measure_scale_zero": _set("measure", "scale", to=[1.0, 0.0, 1.0]),
    "measure_scale_negative": _set("measure", "scale", to=[1.0, -1.0, 1.0]),
    "measure_scale_nan": _set("measure", "scale", to=[1.0, math.nan, 1.0]),
    "measure_scale_infinite": _set("measure", "scale", to=[1.0, math.inf, 1.0]),
    "measure_scale_texts": _set("measure", "scale", to=["a", "b", "c"]),
    "measure_scale_text": _set("measure", "scale", to="abc"),
    "measure_shift_nan": _set("measure", "shift", to=[math.nan] * 3),
    "measure_counted_texts": _set("measure", "counted", to=["a", "b", "c"]),
    "measure_counted_one": _set("measure", "counted", to=[True]),
    "measure_given_text": _set("measure", "given", to="yes"),
    "no_data": _remove("data"),
    "data_text": _set("data", to="rows.csv"),
    "data_list": _set("data", "data", to=["rows.csv"]),
    "data_missing_text": _set("data", "missing", to="keep"),
    "data_resize_text": _set("data", "resize", to="big"),
    "data_gone": _set("data", "data", to="/nowhere/rows.csv"),
    "schema_text": _set("schema", to="a"),
    "schema_columns_list": _set("schema", "columns", to=[1]),
    "schema_column_text": _set("schema", "columns", "a", to="real"),
    "schema_unknown_kind": _set("schema", "columns", "a", "kind", to="odd"),
    "schema_kind_number": _set("schema", "columns", "a", "kind", to=3),
    "schema_low_text": _set("schema", "columns", "a", "low", to="low"),
    "schema_two_columns": _remove("schema", "columns", "a"),
    "schema_unknown_key": _set("schema", "columns", "a", "colour", to=3),
    "image_shape_text": _set("about", "image_shape", to="big"),
    "image_shape_1e12": _set("about", "image_shape", to=[10**6, 10**6]),
    "image_shape_other": _set("about", "image_shape", to=[2, 2]),
    "fitted_measure_text": _set("fitted_measure", to="a"),
    "fitted_measure_one_scale": _set("fitted_measure", "scale", to=[1.0]),
    "fitted_measure_scale_nan": _set("fitted_measure", "scale", to=[math.nan] * 3),
    "num_features_top_text": _set("num_features", to="three"),
    "num_features_top_other": _set("num_features", to=7),
    "fingerprint_number": _set("about", "fingerprint", to=3),
    "model_text": _set("model", to="a"),
    "no_model": _remove("model"),
    "likelihood_number": _set("model", "likelihood", to=3),
    "training_text": _set("training", to="a"),
}
PICTURES: dict[str, Callable[[Config], None]] = {
    "pictures_shape_text": _set("about", "image_shape", to="big"),
    "pictures_shape_other": _set("about", "image_shape", to=[4, 4]),
    "pictures_shape_negative": _set("about", "image_shape", to=[-8, -8]),
    "pictures_shape_1e12": _set("about", "image_shape", to=[10**6, 10**6]),
    "pictures_levels_text": _set("measure", "levels", to="many"),
    "pictures_resize_text": _set("data", "resize", to="big"),
}


def _write_runs(folder: Path) -> None:
    """Variants of the fitted runs, each with digests that are right."""
    config, pictures = (read_toml(folder / name / "config.toml") for name in ("run", "pictures_run"))
    (folder / "runs_of_strangers").mkdir()
    for source, original, changes in (("run", config, RECIPES | SETTINGS), ("pictures_run", pictures, PICTURES)):
        for name, change in changes.items():
            changed = copy.deepcopy(original)
            change(changed)
            write_toml(_copy(folder, source, name) / "config.toml", changed)
    deep = "".join(f"[program.likelihood{'.net' * depth}]\nmake = 'nets.log1p'\n" for depth in range(1, 800))
    text = tomli_w.dumps({name: value for name, value in config.items() if name != "program"}) + deep
    (_copy(folder, "run", "recipe_depth_800") / "config.toml").write_bytes(add_toml_digest(text.encode()))
    _write_weights(folder)
    _write_records(folder)


def _copy(folder: Path, source: str, name: str) -> Path:
    """A copy of a run, without figures."""
    copied = folder / "runs_of_strangers" / name
    shutil.copytree(folder / source, copied, ignore=shutil.ignore_patterns("figures"))
    return copied


WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "weights_nan": lambda t: {k: torch.full_like(v, math.nan) if v.is_floating_point() else v for k, v in t.items()},
    "weights_one_nan": lambda t: {k: _one(v, math.nan, i) for i, (k, v) in enumerate(t.items())},
    "weights_infinite": lambda t: {k: _one(v, math.inf, i) for i, (k, v) in enumerate(t.items())},
    "weights_missing": lambda t: dict(list(t.items())[1:]),
    "weights_more": lambda t: t | {"more": torch.zeros(3)},
    "weights_none": lambda t: {},
    "weights_transposed": lambda t: {k: v.transpose(0, -1).contiguous() if v.dim() > 1 else v for k, v in t.items()},
    "weights_other_names": lambda t: {f"{k}_": v for k, v in t.items()},
    "weights_whole_numbers": lambda t: {k: v.long() for k, v in t.items()},
    "weights_complex": lambda t: {k: v.to(torch.complex64) for k, v in t.items()},
    "weights_float8": lambda t: {k: v.to(torch.float8_e4m3fn) for k, v in t.items()},
    "weights_bool": lambda t: {k: v.bool() for k, v in t.items()},
}


def _one(value: torch.Tensor, to: float, number: int) -> torch.Tensor:
    """A tensor, its first value changed in the second tensor of a file."""
    value = value.clone()
    if number == 1 and value.is_floating_point():
        value.view(-1)[0] = to
    return value


def _write_weights(folder: Path) -> None:
    tensors, about = read_tensors(folder / "run" / "model.safetensors")
    for name, change in WEIGHTS.items():
        write_tensors(_copy(folder, "run", name) / "model.safetensors", change(dict(tensors)), about)
    claims = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    files = {
        "weights_header_of_1e12": len(claims).to_bytes(8, "little") + claims,
        "weights_long_header": (10**12).to_bytes(8, "little") + b"{}",
        "weights_noise": bytes(range(256)),
        "weights_empty": b"",
        "weights_pickle": b"cos\nsystem\n(S'true'\ntR.",
    }
    for name, content in files.items():
        (_copy(folder, "run", name) / "model.safetensors").write_bytes(content)
    place = _copy(folder, "run", "weights_folder") / "model.safetensors"
    place.unlink()
    place.mkdir()


def _write_records(folder: Path) -> None:
    """Runs whose `evaluation.json`, `metrics.jsonl`, reference scores or checkpoint are not what a fit writes."""
    record = read_json(folder / "run" / "evaluation.json")["valid"]
    evaluations: dict[str, Any] = {
        "evaluation_number": {"valid": 3},
        "evaluation_list": {"valid": [1]},
        "evaluation_text_numbers": {"valid": record | {"log_px": "a", "elbo": "b"}},
        "evaluation_list_numbers": {"valid": record | {"num_data": [1]}},
        "evaluation_iwae_text": {"valid": record | {"iwae": "a"}},
        "evaluation_iwae_keys": {"valid": record | {"iwae": {"a": 1.0}}},
        "evaluation_stages_text": {"valid": record | {"stages": 3}},
        "evaluation_text_khat": {"valid": record | {"khat_bad": "a", "log_px_kind": "estimate", "method": "is"}},
    }
    for name, content in evaluations.items():
        write_json(_copy(folder, "run", name) / "evaluation.json", content)
    lines = {"metrics_list": b"[1]\n", "metrics_text": b"text\n", "metrics_deep": b"[" * 100_000 + b"\n"}
    for name, content in lines.items():
        (_copy(folder, "run", name) / "metrics.jsonl").write_bytes(content)
    tensors, about = read_tensors(folder / "run" / "reference.safetensors")
    write_tensors(_copy(folder, "run", "reference_empty") / "reference.safetensors", {}, about)
    write_tensors(_copy(folder, "run", "reference_no_metadata") / "reference.safetensors", tensors)
    nan = {name: torch.full_like(value, math.nan) for name, value in tensors.items() if value.is_floating_point()}
    write_tensors(_copy(folder, "run", "reference_nan") / "reference.safetensors", tensors | nan, about)
    write_tensors(_copy(folder, "run", "reference_text_metadata") / "reference.safetensors", tensors, {"a": "b"})
    state = folder / "run" / "checkpoint" / "state.safetensors"
    tensors, about = read_tensors(state)
    for name, kept, told in (
        ("checkpoint_empty", {}, about),
        ("checkpoint_no_metadata", tensors, None),
        ("checkpoint_text_metadata", tensors, {"epoch": "a", "history": 3}),
    ):
        place = _copy(folder, "run", name)
        (place / "evaluation.json").unlink()
        write_tensors(place / "checkpoint" / "state.safetensors", kept, told)
