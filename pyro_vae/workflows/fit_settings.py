"""The settings of `pyro-vae fit`: those of data, model, objective and training, as options and from a `config.toml`."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pyro_vae.data.data_config import DataConfig
from pyro_vae.errors import InputError
from pyro_vae.file_names import require_path
from pyro_vae.inference.objectives.objectives_by_name import OBJECTIVES, ObjectiveConfig
from pyro_vae.inference.svi.train_config import DEVICE, DTYPE, TrainConfig
from pyro_vae.option_registry import require_known
from pyro_vae.options import Option, Value, options_of
from pyro_vae.registry import ModelConfig, model_options

FEW_LATENTS, RATE_OF_FEW = 2, 0.01  # of pictures; chosen on validation rows at five rates (docs/reliability.md)
# of tables; chosen on validation rows of several (docs/design.md)
MIN_TABLE_COLUMNS, MAX_TABLE_LATENTS, MIN_TABLE_STEPS, MAX_TABLE_EPOCHS = 4, 8, 2000, 500
GROUPS = ("data", "model", "objective", "training")
RUN_TABLES = (
    "about",
    "program",
    "program_needs",
    "num_features",
    "measure",
    "schema",
    "fitted_measure",
)  # of a config.toml that hold no settings
NO_TABLES = ("program_needs", "num_features")  # of these, what are single values


def fit_options() -> dict[str, Option]:
    """Every setting of `pyro-vae fit` by name, in the order of a run's `config.toml`; `option.group` is its table."""
    training = options_of(TrainConfig)
    owned = {name: pairs[0][1] for name, pairs in OBJECTIVES.owned_options().items()}
    objective = {
        **options_of(ObjectiveConfig),
        "num_particles": training.pop("num_particles"),
        **{name: owned[name] for name in sorted(owned)},
        "beta": training.pop("beta"),
        "kl_warmup": training.pop("kl_warmup"),
    }
    last = {"device": DEVICE, "dtype": DTYPE, **{name: training.pop(name) for name in ("precision", "compile")}}
    return options_of(DataConfig) | model_options() | objective | training | last


MIN_VALID_ROWS, MAX_CHECK_ROWS = 100, 1000  # validation rows of which some are set aside, and how many at most


@dataclass(frozen=True)
class FitSettings:
    """The settings of one run, checked.

    Attributes:
        data: which rows are read, and how.
        model: the parts; of a user's own program the defaults, which are not read.
        objective: what is maximized.
        training: how.
        device: the device by name.
        dtype: the floating type of weights and rows by name.
        values: every setting by its group and name, as `config.toml` keeps them.
    """

    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainConfig
    device: str
    dtype: str
    values: dict[str, dict[str, Value]]

    @classmethod
    def from_options(cls, given: Mapping[str, Value | Path], source: str = "fit") -> "FitSettings":
        """The settings that are given, else their defaults.

        Args:
            given: values by the names of `fit_options`.
            source: where they were given, for messages.

        Returns:
            The settings; `InputError` for a name that is no setting, and for values that cannot be used.
        """
        options = fit_options()
        require_known(given, options, source)
        values: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, option in options.items():
            values[option.group.lower()][name] = given.get(name, option.default)
        training = values["training"] | values["objective"]
        loss, owned = training.pop("loss"), {name: training.pop(name) for name in OBJECTIVES.owned_options()}
        device, dtype = training.pop("device"), training.pop("dtype")
        DTYPE.check(dtype)  # a device is checked where it is picked: it may have an index, as in cuda:1
        return cls(
            DataConfig(**values["data"]),
            ModelConfig.from_settings(values["model"]),
            ObjectiveConfig(loss=loss, options=owned),
            TrainConfig(**training),
            device,
            dtype,
            values,
        )

    def with_absolute_paths(self) -> "FitSettings":
        """The same settings with paths that can be found from another folder too; a data set's name is no path."""
        from pyro_vae.data import NAMED_DATASETS  # late: --help needs no data

        def absolute(path: str) -> str:
            require_path(Path(path))
            is_path = path not in NAMED_DATASETS and (Path(path).exists() or Path(path.rpartition("#")[0]).is_file())
            return str(Path(path).resolve()) if is_path else path

        names = ("data", "data_root", "schema", "valid", "test")
        given = self.values["data"]
        values = given | {name: absolute(str(given[name])) for name in names if given[name] is not None}
        return replace(self, data=DataConfig(**cast(dict[str, Any], values)), values=self.values | {"data": values})

    def with_check_rows(self, num_valid: int) -> "FitSettings":
        """The same settings with the number of validation rows that are set aside for checks.

        Half of them, at most 1,000, where there are 100 or more and no groups, whose rows stay together; a number that
        was given stays.

        Args:
            num_valid: the number of validation rows.

        Returns:
            The settings.
        """
        given = self.data.check_rows
        is_split = num_valid >= MIN_VALID_ROWS and self.data.group is None
        number = min(num_valid // 2, MAX_CHECK_ROWS) if is_split else 0
        number = number if given is None else given
        values = self.values | {"data": self.values["data"] | {"check_rows": number}}
        return replace(self, data=replace(self.data, check_rows=number), values=values)

    def with_table_defaults(self, given: Collection[str], num_features: int, num_rows: int) -> "FitSettings":
        """The same settings with the defaults of a table.

        As many latents as columns, at most 8; a mixture as prior; epochs for about 2,000 steps, at most 500.

        Args:
            given: the names of the settings that were given, which stay.
            num_features: the number of columns; with fewer than four, nothing changes.
            num_rows: the number of training rows.

        Returns:
            The settings.
        """
        if num_features < MIN_TABLE_COLUMNS:
            return self
        steps = math.ceil(num_rows / self.training.batch_size)
        epochs = max(self.training.epochs, min(math.ceil(MIN_TABLE_STEPS / steps), MAX_TABLE_EPOCHS))
        latents = min(num_features, MAX_TABLE_LATENTS)
        defaults: dict[str, Value] = {"latent_dim": latents, "prior": "mixture", "epochs": epochs}
        values: dict[str, Value | Path] = {}
        for group in self.values.values():
            values |= group
        return FitSettings.from_options(values | {name: defaults[name] for name in defaults.keys() - set(given)})

    def with_picture_defaults(self, given: Collection[str]) -> "FitSettings":
        """The same settings with the default of pictures: a learning rate of 0.01 for one or two latents.

        Args:
            given: the names of the settings that were given, which stay.

        Returns:
            The settings.
        """
        if self.model.latent_dim > FEW_LATENTS or "learning_rate" in given:
            return self
        values = self.values | {"training": self.values["training"] | {"learning_rate": RATE_OF_FEW}}
        return replace(self, training=replace(self.training, learning_rate=RATE_OF_FEW), values=values)

    def with_precision(self, precision: str) -> "FitSettings":
        """The same settings with the type of products that "auto" has chosen.

        Args:
            precision: "float32" or "bfloat16".

        Returns:
            The settings.
        """
        values = self.values | {"training": self.values["training"] | {"precision": precision}}
        return replace(self, training=replace(self.training, precision=precision), values=values)

    def is_masked(self, has_missing: bool) -> bool:
        """Whether the mask of missing values is an input of the guide: where some are, or `missing` says so."""
        return self.data.missing == "mask" or has_missing

    def to_toml(self) -> dict[str, dict[str, object]]:
        """The settings as TOML can hold them: nothing for None, lists for tuples, text for paths."""

        def plain(value: object) -> object:
            return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value

        return {
            group: {name: plain(value) for name, value in values.items() if value is not None}
            for group, values in self.values.items()
        }


def flatten_config(config: Mapping[str, Any], names: Iterable[str], source: str) -> dict[str, Value]:
    """The settings in a configuration, whether in tables named after the groups or not; dashes are underscores.

    Args:
        config: the content of a TOML file.
        names: the settings that it may hold.
        source: the file, for messages.

    Returns:
        The values by name; `InputError` for a table or a setting that does not exist.
    """
    flat: dict[str, Value] = {}
    for key, value in config.items():
        if key in GROUPS or key in RUN_TABLES:
            _require_table(key, value, source)
            settings = value if key in GROUPS else {}
        elif isinstance(value, dict):
            raise InputError(f"{source}: no table called [{key}]; there are [{'], ['.join(GROUPS)}]")
        else:
            settings = {key: value}
        for name, given in settings.items():
            if (plain := name.replace("-", "_")) in flat:
                raise InputError(f"{source}: {plain} stands there twice")
            flat[plain] = given
    require_known(flat, names, source)
    return flat


def _require_table(key: str, value: object, source: str) -> None:
    """`InputError` for a table of a run that is none."""
    if key == "program" and not isinstance(value, dict):
        raise InputError(
            f"{source}: a file may not name code to run: leave program out, and add --program FILE.py:FUNCTION"
        )
    if not isinstance(value, dict) and key not in NO_TABLES:
        raise InputError(f"{source}: {key} is a table, [{key}], got {value!r}")


def settings_of_earlier_version(config: Mapping[str, Any]) -> dict[str, Value]:
    """The data settings that a run has to have because its version had none of their names.

    Args:
        config: the content of the run's `config.toml`.

    Returns:
        `gray` for the images of a folder: 0.1.0 read colours as grey levels; `check_rows` 0: no rows were set aside.
    """
    from pyro_vae.data.read_files import is_image_source  # late: --help needs no data

    data = config.get("data", {})
    name = data.get("data", "")
    found: dict[str, Value] = {} if "check_rows" in data else {"check_rows": 0}
    if "gray" not in data and isinstance(name, str) and is_image_source(Path(name)):
        found["gray"] = True
    return found


def coding_of_run(config: Mapping[str, Any]) -> dict[str, Value]:
    """The coding that a run's columns were read with, where its settings leave it open: what auto means may change.

    Args:
        config: the content of the run's `config.toml`.

    Returns:
        `coding`, or nothing.
    """
    schema = config.get("schema")
    if not isinstance(schema, Mapping) or config.get("data", {}).get("coding", "auto") != "auto":
        return {}
    return {"coding": str(schema.get("coding", "plain"))}


def require_program(config: Mapping[str, Any], source: str, program: str | None) -> None:
    """Raise `InputError` where a configuration is of a user's own program, which no file may name, and none is given.

    Args:
        config: the content of a `config.toml`.
        source: the file, for the message.
        program: what `--program` says, if it is given.
    """
    about = config.get("about", {})
    own = about.get("program") if isinstance(about, dict) else None
    if own and program is None:
        raise InputError(f"{source} is of a program of your own, which no file may name for you: add --program {own}")
