"""The study of autoencoder, VAE, PCA and kernel PCA: encoders of several sizes on the same rows, tables and figures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from pyro_vae.atomic_write import DeferUnwritable, read_json, write_json
from pyro_vae.comparison.learning_curves import first_rows
from pyro_vae.data import Dataset, Split
from pyro_vae.data.data_config import DataConfig
from pyro_vae.diagnostics.latent_codes import Encoder
from pyro_vae.errors import InputError, UnwritableError
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.models.autoencoder import Autoencoder
from pyro_vae.models.pca import MAX_ROWS
from pyro_vae.models.vae import VAE
from pyro_vae.run_folder import claim_folder, lock_new_folder, remove_if_empty
from pyro_vae.serialization import load, save
from pyro_vae.studies.autoencoder_vs_vae_encoders import (
    KINDS,
    Training,
    evaluate_encoder,
    fit_encoder,
    num_parameters,
    pixel_knn_accuracy,
)
from pyro_vae.studies.autoencoder_vs_vae_figures import draw_encoders
from pyro_vae.studies.encoder_records import EncoderMeans, EncoderRow, mean_over_seeds
from pyro_vae.studies.swiss_roll import UnrolledSheet, load_or_fit_swiss_roll
from pyro_vae.workflows.choose_likelihood import load_dataset

TABLE, FITTED = "comparison.json", "fit.json"
NETWORKS = ("ae", "vae")  # whose fit depends on a seed
MIN_ROWS = 10  # of the split, for nearest neighbours
Log = Callable[[str], None]


@dataclass(frozen=True)
class EncoderStudy:
    """What the study found: a record of each encoder, means over seeds, and the figures.

    `pixel_accuracy` is that of nearest neighbours on x itself, None without labels; `unwritten` is why the table or
    figures are not in the folder, None where they are.
    """

    folder: Path
    rows: Split
    records: list[dict[str, object]]
    table: list[EncoderMeans]
    pixel_accuracy: float | None
    rolls: list[UnrolledSheet]
    figures: list[Path]
    unwritten: UnwritableError | None = None


@dataclass(frozen=True)
class _Plan:
    """What is fitted and measured, and where it is kept."""

    folder: Path
    data: Dataset
    rows: Split
    sizes: list[int]
    seeds: range
    training: Training
    log: Log


def run_encoder_study(
    data: DataConfig,
    *,
    out: str | Path | None = None,
    latent_dim: Sequence[int] = (2, 5, 10, 20, 50),
    seeds: int = 3,
    seed: int = 0,
    split: str = "valid",
    num_rows: int | None = None,
    train_rows: Sequence[int] = (),
    training: Training = Training(),  # noqa: B008 - frozen
    swiss_roll: bool = True,
    log: Log = lambda line: None,
) -> EncoderStudy:
    """Fit every kind of encoder with every number of latents, measure its latent space, write a table, draw figures.

    An interrupted study is resumed in its folder. Raises `InputError` for data that squared errors or principal
    components cannot be computed on.

    Args:
        data: the data settings of `fit`.
        out: a folder, by default a new one under `runs/`.
        latent_dim: the numbers of latents.
        seeds: how many fits of each network.
        seed: the first fit's seed.
        split: the rows to measure.
        num_rows: the first so many of them.
        train_rows: one number: train on the first so many rows.
        training: the networks' layers and training.
        swiss_roll: whether the swiss roll is encoded too.
        log: called with each line of the log.

    Returns:
        The records, the table and the figures.
    """
    dataset = _dataset(data, train_rows)
    rows = dataset.split(split)
    rows = rows if num_rows is None else rows.head(num_rows)
    sizes = sorted(set(latent_dim))
    _require_suitable(dataset, rows, sizes)
    is_new = out is None or not Path(out).exists()
    settings = asdict(data) | {
        "latent_dim": sizes,
        "seeds": seeds,
        "seed": seed,
        "num_rows": num_rows,
        "roll": swiss_roll,
    }
    with lock_new_folder(None if out is None else Path(out), "ae-vs-vae") as folder:
        claim_folder(folder, settings | vars(training), dataset.fingerprint)
        log(f"{dataset.name}: fitted to {len(dataset.train):,} rows, measured on {len(rows):,} {rows.name} rows")
        log(f"results go to {folder}; Ctrl-C keeps what is done, and the same command with --out {folder} resumes it")
        plan = _Plan(folder, dataset, rows, sizes, range(seed, seed + seeds), training, log)
        try:
            found = list(_measure(plan))
        except InputError:
            if is_new:
                remove_if_empty(folder, FITTED)
            raise
        rolls = [load_or_fit_swiss_roll(folder / f"roll-{kind}", kind, seed, log) for kind in KINDS * swiss_roll]
        return _finish(plan, found, rolls)


def _finish(plan: _Plan, found: list[EncoderRow], rolls: list[UnrolledSheet]) -> EncoderStudy:
    """The tables and figures of what was measured."""
    pixels = pixel_knn_accuracy(plan.data, plan.rows)
    table, records = mean_over_seeds(found), [_record(one, plan.rows) for one in found]
    models = {kind: _load_or_fit(plan, kind, plan.sizes[0], plan.seeds[0])[0] for kind in KINDS}
    figures: list[Path] = []
    with DeferUnwritable() as unwritten:
        write_json(plan.folder / TABLE, {"rows": records, "knn_accuracy_in_x": pixels})
        figures = draw_encoders(plan.folder / "figures", table, models, plan.data, plan.rows, rolls, pixels)
    return EncoderStudy(plan.folder, plan.rows, records, table, pixels, rolls, figures, unwritten.error)


def _dataset(config: DataConfig, train_rows: Sequence[int]) -> Dataset:
    """Images in grey levels, tables standardized; the first training rows where fewer are asked for."""
    data = load_dataset(config, "normal")
    if len(train_rows) > 1:
        raise InputError("this study varies the number of latents: give --train-rows once")
    for number in train_rows:
        if number > len(data.train):
            raise InputError(f"there are {len(data.train)} training rows, fewer than --train-rows {number}")
        data = first_rows(data, number)
    return data


def _require_suitable(data: Dataset, rows: Split, sizes: list[int]) -> None:
    if data.train.measure.binarize != "none":
        raise InputError(
            f"{data.name}: squared errors are of grey levels or real numbers, not of drawn bits: leave out --binarize"
        )
    if rows.mask is not None:
        raise InputError(f"{data.name}: values are missing, and principal components need whole rows: fill them first")
    if len(rows) <= max(MIN_ROWS, sizes[-1]):
        raise InputError(
            f"{len(rows)} {rows.name} rows are too few to measure {sizes[-1]} latents: take more rows, or a smaller "
            "--latent-dim"
        )
    most = min(data.num_features, len(data.train)) - 1
    if sizes[-1] > most:
        raise InputError(f"{sizes[-1]} latents for {data.num_features} columns: try --latent-dim {most} or fewer")
    if len(data.train) > MAX_ROWS:
        raise InputError(
            f"kernel PCA needs a matrix of N × N numbers, too many for {len(data.train):,} rows: add --train-rows 5000"
        )


def _measure(plan: _Plan) -> Iterator[EncoderRow]:
    """The numbers of every encoder with every seed; networks are fitted for each seed, principal components once."""
    for number, (size, kind) in enumerate(product(plan.sizes, KINDS)):
        model, seconds = None, 0.0
        for seed in plan.seeds:
            path = plan.folder / f"{kind}-{size}-{seed}" / f"{plan.rows.name}.json"
            if not path.exists():
                if model is None or kind in NETWORKS:
                    plan.log(f"{number + 1}/{len(plan.sizes) * len(KINDS)} {kind}, {size} latents, seed {seed}")
                    model, seconds = _load_or_fit(plan, kind, size, seed)
                numbers = evaluate_encoder(model, plan.data, plan.rows, seed=seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, dict(EncoderRow(kind, size, seed, seconds, num_parameters(model), **numbers)))
            yield EncoderRow.from_dict(read_json(path))


def _load_or_fit(plan: _Plan, kind: str, size: int, seed: int) -> tuple[Encoder, float]:
    """An encoder and the seconds its fit took, now or before the study was interrupted."""
    folder = plan.folder / f"{kind}-{size}-{seed}"
    if (folder / FITTED).exists():
        saved = load(folder)
        assert isinstance(saved, VAE | Autoencoder)
        return saved, read_json(folder / FITTED)["seconds"]
    model, seconds = fit_encoder(kind, size, plan.data, plan.training, seed)
    if isinstance(model, VAE | Autoencoder):
        save(model, folder)
        write_json(folder / FITTED, {"seconds": seconds})
    return model, seconds


def _record(found: EncoderRow, rows: Split) -> dict[str, object]:
    """The keys of an evaluation's record, and those of the study."""
    fit_method = "svi" if found.kind in NETWORKS else "closed-form"
    name = f"{found.kind}:{found.num_latents}"
    known = EvidenceRecord(model=name, fit_method=fit_method, split=rows.name, num_data=len(rows))
    return dict(known) | {name: value for name, value in found.items() if name != "kind"}
