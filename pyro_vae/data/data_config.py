"""The settings of which data are read and how they become x: each with its default, choices and help, once."""

from dataclasses import dataclass

from pyro_vae.options import Settings, setting

BINARIZE = ("stochastic", "fixed", "threshold", "none")
MISSING = ("auto", "refuse", "mask")
HEADER = ("auto", "yes", "no")
CODING = ("auto", "columns", "one-hot", "plain")
DATA = "Data"


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """The data settings of `pyro-vae fit`: options of the command line and keys of `config.toml`.

    `load_data` takes the same settings, `data` as its first argument and `data_root` as `root`. Each field's default is
    here; its help is in its `Option` (`options_of(DataConfig)`). None leaves the choice to the values. Raises
    `InputError` for a value that cannot be used.

    >>> DataConfig(data="digits", binarize="fixed").missing
    'auto'
    >>> DataConfig(missing="keep")
    Traceback (most recent call last):
        ...
    pyro_vae.errors.InputError: missing must be 'auto', 'refuse' or 'mask', got 'keep'
    """

    data: str = setting(
        "mnist-5k",
        str,
        "A named data set (pyro-vae datasets), or a .npy, .npz, .csv, .parquet file or a folder of images.",
        metavar="NAME|PATH",
        group=DATA,
    )
    data_root: str | None = setting(
        None,
        "path",
        "The folder that holds torchvision's data sets; by default the cache, downloading.",
        metavar="DIR",
        group=DATA,
    )
    binarize: str | None = setting(
        None,
        str,
        "How pixels become 0 or 1; grey images: stochastic, drawn anew each epoch; colour: none.",
        choices=BINARIZE,
        group=DATA,
    )
    dequantize: bool = setting(
        False, bool, "Add uniform noise to integers, so that a density exists.", is_flag=True, group=DATA
    )
    standardize: bool | None = setting(
        None,
        bool,
        "Subtract each column's mean and divide by its standard deviation; tables of real numbers: yes.",
        group=DATA,
    )
    missing: str = setting(
        "auto",
        str,
        "NaN and empty cells: refuse them, or mask: model the observed values, with the mask as input of the guide; "
        "auto refuses them in arrays and masks them in tables of columns.",
        choices=MISSING,
        group=DATA,
    )
    header: str = setting(
        "auto",
        str,
        "Whether the first row of a text table holds the columns' names.",
        choices=HEADER,
        group=DATA,
    )
    image_shape: tuple[int, int] | tuple[int, int, int] | None = setting(
        None,
        "shape",
        "Rows are images of this height and width, as in 28x20, or of these channels too, as in 3x32x32.",
        metavar="[Cx]HxW",
        group=DATA,
    )
    gray: bool = setting(False, bool, "Read the images of a folder as grey levels.", is_flag=True, group=DATA)
    resize: tuple[int, int] | None = setting(
        None,
        "size",
        "Bring the images of a folder to this height and width (Lanczos resampling).",
        metavar="HxW",
        group=DATA,
    )
    stream: bool | None = setting(
        None,
        bool,
        "Leave the training rows of a .npy, .parquet or .h5ad on disk; by default where they exceed 1 GiB.",
        group=DATA,
    )
    layer: str | None = setting(
        None,
        str,
        "The layer of annotated rows (.h5ad, .zarr) that holds the values, raw for those of adata.raw; by default X.",
        metavar="NAME",
        group=DATA,
    )
    column: tuple[str, ...] = setting(
        (),
        "texts",
        "The kind of a column, in place of the one that its values suggest: real, positive, bounded, count, integer, "
        "binary, categorical, ordinal:low<mid<high, datetime:%d.%m.%Y, id, label or ignored. May be repeated.",
        metavar="NAME=KIND",
        group=DATA,
    )
    label: str | None = setting(
        None,
        str,
        "The column of labels, which is not modelled; by default one called label, labels, target or class.",
        metavar="NAME",
        group=DATA,
    )
    id: tuple[str, ...] = setting(
        (), "texts", "A column that names a row: not modelled, and comes back with it.", metavar="NAME", group=DATA
    )
    drop: tuple[str, ...] = setting((), "texts", "A column that is left out.", metavar="NAME", group=DATA)
    weights: str | None = setting(
        None,
        str,
        "The column of rows' weights, which multiply each row's ELBO and its share of every mean and error.",
        metavar="NAME",
        group=DATA,
    )
    split: str | None = setting(
        None,
        str,
        "The column that says to which split a row belongs: train, valid or test; by default 80, 10 and 10 %.",
        metavar="NAME",
        group=DATA,
    )
    group: str | None = setting(
        None, str, "The column of groups, whose rows stay in one split.", metavar="NAME", group=DATA
    )
    given: tuple[str, ...] = setting(
        (),
        "texts",
        "Columns that are conditions, or the labels: not modelled, and inputs of model and guide, p(x | these). May be "
        "repeated.",
        metavar="NAME[,NAME]",
        group=DATA,
    )
    exposure: tuple[str, ...] = setting(
        (),
        "texts",
        "The column that the means of counts are proportional to, as days or size factors are, or that of one count: a "
        "condition whose logarithm is an offset. May be repeated.",
        metavar="[COUNT=]NAME",
        group=DATA,
    )
    schema: str | None = setting(
        None, "path", "A file of columns with their kinds, or a run's config.toml.", metavar="FILE.toml", group=DATA
    )
    coding: str = setting(
        "auto",
        str,
        "How a row of columns with kinds is written as numbers: columns, one for each, for --likelihood columns; "
        "one-hot, for likelihoods of real numbers; plain, the numbers themselves, where there are no levels; auto.",
        choices=CODING,
        group=DATA,
    )
    valid: str | None = setting(
        None, "path", "The validation rows, where they are a file of their own.", metavar="PATH", group=DATA
    )
    test: str | None = setting(None, "path", "The test rows, likewise.", metavar="PATH", group=DATA)
    check_rows: int | None = setting(
        None,
        int,
        "Validation rows that are set aside for `pyro-vae check` and choose nothing; by default half of them, at most "
        "1,000, where there are 100 or more and no groups.",
        minimum=0,
        group=DATA,
    )
