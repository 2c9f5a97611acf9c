"""The command lines of `bad_input.py`, by kind; their files are those of `bad_input_files.prepare`."""

from collections.abc import Iterator, Mapping

from bad_input_files import CONFIGS, PICTURES, RECIPES, SETTINGS, WEIGHTS

Line = tuple[str, str, Mapping[str, str]]  # the kind, the arguments, environment variables
FIT = "fit --data rows.csv --epochs 1 --hidden 4 --out new"
NOT_NUMBERS = ("nan", "inf", "-inf", "many", "''")
NUMBERS: dict[str, tuple[str, ...]] = {  # options that are numbers, and what each cannot be
    "fit --data rows.csv --out new": (
        *(f"--{name} {value}" for name in (
            "epochs", "batch-size", "learning-rate", "clip", "beta", "kl-warmup", "num-particles", "patience",
            "latent-dim", "seed", "check-rows", "max-restarts",
        ) for value in NOT_NUMBERS),
        "--epochs 0", "--epochs -1", "--epochs 1.5", "--batch-size 0", "--batch-size -3", "--learning-rate 0",
        "--learning-rate -1", "--learning-rate 1e400", "--clip 0", "--clip -1", "--beta -1", "--kl-warmup -1",
        "--num-particles 0", "--patience -1", "--latent-dim 0", "--latent-dim -2", "--seed 1e3",
        "--seed 99999999999999999999999999", "--scale nan", "--scale inf", "--scale 0", "--scale -1", "--scale big",
        "--hidden ''", "--hidden 0", "--hidden -5", "--hidden nan", "--hidden 4,,4", "--hidden 4,x",
        "--prior mixture --components 0", "--prior mixture --components nan", "--guide low-rank --rank 0",
        "--guide low-rank --rank 99", "--guide flow --flow-layers 0", "--free-bits -1", "--free-bits nan",
        "--loss elbo --free-bits inf", "--check-rows -1", "--check-rows 100000", "--max-restarts -1",
    ),
    "check run": (
        *(f"--{name} {value}" for name in (
            "time", "num-rows", "num-replicates", "num-simulations", "num-draws", "num-scored", "num-samples",
            "bootstrap", "seed",
        ) for value in NOT_NUMBERS),
        "--time 0", "--time -5s", "--time 5", "--time 5x", "--num-rows 0", "--num-replicates 0", "--num-simulations 1",
        "--num-draws 0", "--num-scored -1", "--num-samples 0", "--bootstrap -1", "--bootstrap 1",
        "--seed 99999999999999999999999999",
    ),
    "evaluate run": (
        *(f"--{name} {value}" for name in ("num-samples", "num-rows", "memory-mib", "seed") for value in NOT_NUMBERS),
        "--num-samples 0", "--num-samples -1", "--num-rows 0", "--num-rows -1", "--memory-mib 0", "--memory-mib -1",
        "--prior-share nan", "--prior-share 2", "--prior-share -1", "--method ais --temperatures 0",
        "--method ais --chains 0", "--method ais --temperatures nan", "--seed 99999999999999999999999999",
    ),
    "score run rows.csv --out new.csv": (
        *(f"--{name} {value}" for name in ("num-samples", "false-alarms", "memory-mib") for value in NOT_NUMBERS),
        "--false-alarms 0", "--false-alarms 1", "--false-alarms -1", "--false-alarms 1e-9", "--num-samples 0",
    ),
    "sample run --out new.csv": (
        *(f"--{name} {value}" for name in ("num", "seed") for value in NOT_NUMBERS),
        "--num 0", "--num -1", "--num 1.5", "--seed 99999999999999999999999999",
    ),
    "impute run rows.csv --out new.csv": (
        *(f"--{name} {value}" for name in ("num-imputations", "num-samples", "seed") for value in NOT_NUMBERS),
        "--num-imputations 0", "--num-samples 0", "--num-samples 24", "--method none",
    ),
    "report run --out new.html": (
        *(f"--{name} {value}" for name in ("num-rows", "num-samples") for value in NOT_NUMBERS),
        "--num-rows 0", "--num-rows 2", "--num-samples 0", "--split train",
    ),
    "compare run --out new": (
        *(f"--{name} {value}" for name in ("num-samples", "num-rows", "level") for value in NOT_NUMBERS),
        "--num-samples 0", "--num-rows 0",
    ),
    "compare --model ppca:1 --data rows.csv --out new": (
        "--epochs 0", "--epochs nan", "--learning-rate nan", "--batch-size 0", "--train-rows 0", "--train-rows nan",
        "--iterations 0", "--starts 0", "--width 0", "--seed nan",
    ),
    "study posterior-collapse --out new": ("--seeds a", "--seeds ''", "--seeds 1,,2", "--seeds nan", "--epochs 0",
                                           "--epochs nan", "--setting none"),
    "study autoencoder-vs-vae --out new": (
        "--denoising 1", "--denoising nan", "--denoising -1", "--seeds 0", "--latent-dim 0", "--num-rows 1",
        "--train-rows 1", "--learning-rate nan", "--hidden 0",
    ),
    "study squared-error-trap run --out new": ("--num-rows 1", "--num-samples -1", "--data nothing", ""),
    "study swiss-roll --out new": ("--seed nan", "--seed 99999999999999999999999999"),
}  # fmt: skip
HUGE = (  # sizes that no memory and no disk holds
    "sample run --num 1000000000000 --out new.csv",
    "sample run --num 1000000000000 --out new.npy",
    "sample run --num 1000000000000 --out new.parquet",
    "sample run --num 1000000000000",
    "sample pictures_run --num 100000000000 --out new.npy",
    "evaluate run --num-samples 1000000000000",
    "evaluate run --method is --num-samples 1000000000000",
    "evaluate run --method ais --chains 1000000000000",
    "evaluate run --method ais --temperatures 1000000000000",
    "evaluate run --num-samples 1000000000000 --netcdf new.nc",
    "score run rows.csv --num-samples 1000000000000 --out new.csv",
    "impute run bad/one_gap.csv --num-samples 1000000000000 --out new.csv",
    "impute run bad/one_gap.csv --num-imputations 1000000000000 --out new.csv",
    "report run --num-samples 1000000000000 --out new.html",
    "check run --num-samples 1000000000000",
    "check run --num-draws 1000000000000",
    "check run --num-replicates 1000000000000",
    "check run --num-simulations 1000000000000",
    "compare run --num-samples 1000000000000 --out new",
    "fit --data rows.csv --latent-dim 1000000000000 --out new",
    "fit --data rows.csv --latent-dim 100000000 --out new",
    "fit --data rows.csv --hidden 1000000000000 --out new",
    "fit --data rows.csv --hidden 1000000,1000000 --out new",
    "fit --data rows.csv --num-particles 1000000000000 --epochs 1 --out new",
    "fit --data rows.csv --prior mixture --components 1000000000000 --out new",
    "fit --data rows.csv --prior vamp --components 1000000000000 --out new",
    "fit --data rows.csv --guide mixture --components 1000000000000 --out new",
    "fit --data rows.csv --guide flow --flow-layers 1000000000 --out new",
    "fit --data pictures --resize 1000000x1000000 --out new",
    "fit --data pictures --resize 100000x100000 --out new",
    "fit --data rows.npy --image-shape 1000000x1000000 --out new",
    "fit --data bad/unpacks_to_4_GB.npz --out new",
    "fit --data bad/unpacks_to_4_GB.csv.zip --out new",
    "fit --data bad/large_pictures --out new",
    "fit --data bad/large_pictures --gray --out new",
    "fit --data bad/million_columns.csv --out new",
    "fit --data bad/million_names.csv --out new",
    "encode run bad/unpacks_to_4_GB.npz --out new.csv",
    "score run bad/unpacks_to_4_GB.csv.zip --out new.csv",
    "encode pictures_run bad/large_pictures --out new.csv",
    "encode run bad/million_columns.csv --out new.csv",
    "compare --model gaussian-mixture:1000000000000 --data rows.csv --out new",
    "compare --model ppca:1000000000000 --data rows.csv --out new",
    "study autoencoder-vs-vae --latent-dim 1000000000000 --data digits --out new",
)
DATA = (  # files in bad/
    "no_rows.npy", "no_columns.npy", "one_row.npy", "a_number.npy", "one_axis.npy", "five_axes.npy", "objects.npy",
    "texts.npy", "records.npy", "complex.npy", "dates.npy", "infinite.npy", "one_infinite.npy", "nan.npy",
    "huge_numbers.npy", "header_of_1e12_rows.npy", "header_of_more_rows.npy", "header_of_1e12_columns.npy",
    "header_of_negative_rows.npy", "header_of_floats.npy", "header_of_text.npy", "header_of_nothing.npy",
    "header_of_code.npy", "header_of_many_axes.npy", "header_of_another_type.npy", "header_of_no_type.npy",
    "header_of_wide_text.npy", "version_9.npy", "cut.npy", "cut_header.npy", "noise.npy", "empty.npy", "is_npz.npy",
    "is_npy.npz", "cut.npz", "noise.npz", "two_arrays.npz", "no_arrays.npz", "text_inside.npz", "objects_inside.npz",
    "header_of_1e12_rows.npz", "labels_of_another_length.npz", "labels_of_two_axes.npz", "sparse_shape_of_1e12.npz",
    "sparse_wrong_indices.npz", "sparse_wrong_indptr.npz", "sparse_no_format.npz", "sparse_complex.npz", "empty.csv",
    "header_only.csv", "one_row.csv", "ragged.csv", "twice.csv", "constant_and_empty.csv", "zero_bytes.csv",
    "noise.csv", "open_quote.csv", "infinite.csv", "long_line.csv", "utf16.csv", "cut.csv.gz", "noise.csv.bz2",
    "noise.csv.xz", "noise.csv.zip", "two_tables.csv.zip", "noise.parquet", "ends_like_one.parquet", "empty.parquet",
    "noise.feather", "noise.arrow", "noise.xlsx", "zip.xlsx", "noise.h5ad", "rows.xls", "rows.pkl", "rows.txt", "rows",
    "noise.png", "wide.png", "16_bits.png", "no_pictures", "unlike_sizes", "noise_pictures", "absent.csv", "absent.npy",
)  # fmt: skip
NEW_ROWS = (  # of those, what other commands are given
    "no_rows.npy", "five_axes.npy", "objects.npy", "complex.npy", "header_of_1e12_rows.npy", "header_of_1e12_rows.npz",
    "cut.npy", "sparse_wrong_indices.npz", "sparse_shape_of_1e12.npz", "header_only.csv", "ragged.csv", "noise.csv",
    "noise.parquet", "rows.pkl", "absent.csv", "infinite.csv",
)  # fmt: skip
OUT = {  # where nothing can be written: folders, and files
    "folder": ("a_file", "a_file/inside", "long", "run", "pictures", "''", "/proc/new", "/dev/null"),
    "file": ("a_folder.csv", "a_file/new.csv", "long.csv", "''", "new", "new.xls", "new.h5ad"),
}
CONTRADICTIONS = (
    "fit rows.csv", "fit --resume run --epochs 3", "fit --resume nothing", "fit --resume a_file",
    "fit --resume own_run", f"{FIT} --rank 2", f"{FIT} --components 3", f"{FIT} --dreg",
    f"{FIT} --loss iwae --free-bits 1", f"{FIT} --network linear", f"{FIT} --network conv",
    f"{FIT} --likelihood bernoulli --binarize none", f"{FIT} --likelihood poisson", f"{FIT} --likelihood none",
    f"{FIT} --prior none", f"{FIT} --guide none", f"{FIT} --optimizer none", f"{FIT} --schedule none",
    f"{FIT} --device none", f"{FIT} --device cuda:99", f"{FIT} --dtype float16", f"{FIT} --binarize fixed",
    f"{FIT} --gray", f"{FIT} --resize 8x8", f"{FIT} --image-shape 8x8", f"{FIT} --image-shape 0x3",
    f"{FIT} --image-shape -1x-3", f"{FIT} --image-shape 3", f"{FIT} --image-shape 1x1x1x3", f"{FIT} --column a",
    f"{FIT} --column a=none", f"{FIT} --column z=real", f"{FIT} --column =real", f"{FIT} --label z", f"{FIT} --id z",
    f"{FIT} --drop z", f"{FIT} --drop a --drop b --drop c", f"{FIT} --weights z", f"{FIT} --weights a",
    f"{FIT} --split z", f"{FIT} --split a", f"{FIT} --group z", f"{FIT} --schema absent.toml",
    f"{FIT} --schema own.py", f"{FIT} --valid absent.csv", f"{FIT} --test rows.npy", f"{FIT} --layer raw",
    f"{FIT} --stream", f"{FIT} --header maybe", f"{FIT} --missing keep", f"{FIT} --coding none",
    f"{FIT} --config absent.toml", f"{FIT} --config pictures", f"{FIT} --logger none", f"{FIT} --column a=datetime:%Q",
    "fit --data minst", "fit --data ''", "fit --data digits --data-root absent --out new --binarize maybe",
    "evaluate", "evaluate nothing", "evaluate a_file", "evaluate empty_folder", "evaluate run run",
    "evaluate run --split none", "evaluate run --method none", "evaluate run --temperatures 5",
    "evaluate run --method exact --chains 2", "evaluate run --program own.py:other", "evaluate own_run",
    "evaluate run --device none", "evaluate run --netcdf a_file/new.nc", "evaluate run --netcdf a_folder.csv",
    "evaluate ''", "info ''", "info", "info nothing", "info a_file", "info run run", "score run absent.csv",
    "score nothing rows.csv", "score run digits", "encode run pictures", "encode pictures_run rows.csv",
    "reconstruct run rows.csv rows.csv", "sample nothing", "sample run rows.csv", "impute run pictures",
    "impute pictures_run rows.csv", "check", "check nothing", "check a_file", "check own_run", "check run run",
    "check run --split train", "check run --device none", "check run --statistic own.py",
    "check run --statistic own.py:", "check run --statistic absent.py:mean", "check run --statistic own.py:absent",
    "check run --statistic own.py:raises", "check run --statistic syntax.py:mean", "check run --program own.py:other",
    f"{FIT} --exposure z", f"{FIT} --exposure a=z", f"{FIT} --exposure =a", f"{FIT} --given z",
    f"{FIT} --given a --given b --given c", f"{FIT} --semi-supervised", f"{FIT} --semi-supervised --label z",
    "report nothing", "report empty_folder", "report run --split none", "compare nothing", "compare run a_file",
    "compare run pictures_run --out new", "compare --model none --out new", "compare --model ppca: --out new",
    "compare --model ppca:x --out new",
    "compare --model ppca:0 --out new", "compare --model ppca:nan --out new", "compare --model : --out new",
    "compare --preset none", "compare --fit-method none --out new", "compare --curve none --out new",
    "compare --data absent.csv --model ppca:1 --out new", "compare --latent-dim 3", "study none",
    "study squared-error-trap nothing", "study em-bounds more", "datasets more", "datasets --all", "none", "--none",
    "fit --epochs", "fit --out", "sample run --num",
)  # fmt: skip
OWN = (
    "own.py", "own.py:", ":build", "own.py:absent", "own.py:a_value", "own.py:nothing", "own.py:raises",
    "own.py:asks", "own.py:ends", "absent.py:build", "syntax.py:build", "exits.py:build", "exits_1.py:build",
    "raises.py:build", "zeros.py:build", "latin.py:build", "recursion.py:build", "text.txt:build", "pictures:build",
    "''",
)  # fmt: skip
ENVIRONMENTS: tuple[tuple[str, dict[str, str]], ...] = (
    (FIT, {"WORLD_SIZE": "abc"}),
    (FIT, {"WORLD_SIZE": "2", "RANK": "abc"}),
    (FIT, {"WORLD_SIZE": "2", "RANK": "7"}),
    (FIT, {"WORLD_SIZE": "-2", "RANK": "0"}),
    (FIT, {"WORLD_SIZE": "2", "RANK": "-1"}),
    (FIT, {"WORLD_SIZE": "2.5", "RANK": "0"}),
    (FIT, {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}),
    (FIT, {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"}),
    ("info run", {"WORLD_SIZE": "abc"}),
    ("info run", {"WORLD_SIZE": "2", "RANK": "1"}),
    ("datasets", {"WORLD_SIZE": "abc"}),
)
ALL = (
    "evaluate {}",
    "score {} rows.csv --out new.csv",
    "sample {} --out new.csv",
    "report {} --out new.html",
    "check {}",
)
SOME = ("evaluate {}", "sample {} --out new.csv")
INFO_TOO = {"about_text", "about_list", "format_text", "format_list", "format_later", "training_text", "model_text",
            "data_text"}  # fmt: skip
UNREAD = {"model_text", "no_model", "training_text", "likelihood_number", "fingerprint_number", "data_gone"}


def commands() -> Iterator[Line]:
    """Every command line with its kind."""
    yield from (("numbers", f"{line} {bad}", {}) for line, all_bad in NUMBERS.items() for bad in all_bad)
    yield from (("sizes", line, {}) for line in HUGE)
    yield from (("options", line, {}) for line in CONTRADICTIONS)
    yield from (("data files", f"fit --data bad/{name} --epochs 1 --hidden 4 --out new", {}) for name in DATA)
    for name in NEW_ROWS:
        yield "data files", f"encode run bad/{name} --out new.csv", {}
        yield "data files", f"score run bad/{name} --out new.csv", {}
        yield "data files", f"impute run bad/{name} --out new.csv", {}
    yield from _outputs()
    yield from (("config files", f"fit --data rows.csv --out new --config configs/{name}.toml", {}) for name in CONFIGS)
    yield "config files", "fit --data rows.csv --out new --config configs/latin.toml", {}
    yield "config files", "fit --data rows.csv --out new --config configs/a_folder.toml", {}
    yield from _runs()
    yield from (("--program", f"fit --data rows.csv --epochs 1 --out new --program {name}", {}) for name in OWN)
    yield from (("--program", f"evaluate own_run --program {name}", {}) for name in (*OWN, "own.py:other"))
    yield from (("environment", line, given) for line, given in ENVIRONMENTS)


def _outputs() -> Iterator[Line]:
    long = "x" * 300
    for name in OUT["folder"]:
        where = name.replace("long", long)
        yield "output paths", f"fit --data rows.csv --epochs 1 --hidden 4 --out {where}", {}
        yield "output paths", f"compare run --out {where}", {}
        yield "output paths", f"study em-bounds --out {where}", {}
    for name in OUT["file"]:
        where = name.replace("long", long)
        for line in ("score run rows.csv", "encode run rows.csv", "reconstruct run rows.csv", "sample run",
                     "impute run rows.csv"):  # fmt: skip
            yield "output paths", f"{line} --out {where}", {}
    for name in ("a_folder.csv", "a_file/new.html", f"{long}.html"):
        yield "output paths", f"report run --out {name}", {}
    for name in ("a_folder.csv", "a_file/new.html", f"{long}.html", "new.csv", "new", "''"):
        yield "output paths", f"check run --out {name}", {}
    for name in ("a_folder.csv", "a_file/new.nc", f"{long}.nc", "''"):
        yield "output paths", f"evaluate run --netcdf {name}", {}


def _runs() -> Iterator[Line]:
    """A stranger's runs: each with the commands that read what is strange in it."""
    for name in (*RECIPES, "recipe_depth_800"):
        yield from (("recipes", line.format(f"runs_of_strangers/{name}"), {}) for line in SOME)
    for name in SETTINGS:
        place = f"runs_of_strangers/{name}"
        if name in INFO_TOO:
            yield "run folders", f"info {place}", {}
        if name in UNREAD:
            yield "run folders", f"evaluate {place}", {}
        else:
            yield from (("run folders", line.format(place), {}) for line in ALL[:2])
    for name in PICTURES:
        yield "run folders", f"encode runs_of_strangers/{name} pictures --out new.csv", {}
        yield "run folders", f"reconstruct runs_of_strangers/{name} --out new.csv", {}
    for name in (*WEIGHTS, "weights_header_of_1e12", "weights_long_header", "weights_noise", "weights_empty",
                 "weights_pickle", "weights_folder"):  # fmt: skip
        yield from (("weights", line.format(f"runs_of_strangers/{name}"), {}) for line in ALL)
    for name in ("number", "list", "text_numbers", "list_numbers", "iwae_text", "iwae_keys", "stages_text",
                 "text_khat"):  # fmt: skip
        yield "run folders", f"info runs_of_strangers/evaluation_{name}", {}
        yield "run folders", f"report runs_of_strangers/evaluation_{name} --out new.html", {}
    for name in ("list", "text", "deep"):
        yield "run folders", f"info runs_of_strangers/metrics_{name}", {}
        yield "run folders", f"report runs_of_strangers/metrics_{name} --out new.html", {}
    for name in ("empty", "no_metadata", "nan", "text_metadata"):
        yield "run folders", f"score runs_of_strangers/reference_{name} rows.csv --out new.csv", {}
    for name in ("empty", "no_metadata", "text_metadata"):
        yield "run folders", f"fit --resume runs_of_strangers/checkpoint_{name}", {}
