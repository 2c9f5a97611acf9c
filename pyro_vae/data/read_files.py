"""Tables and images from files, checked as they are read."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pyro_vae.data.annotated.annotated_rows import ANNOTATED_SUFFIXES, AnnotatedRows
from pyro_vae.data.annotated.fields import Fields
from pyro_vae.data.annotated.read_annotated import read_annotated, table_from_annotated
from pyro_vae.data.frames import Frame, is_frame, read_frame, without_row_numbers
from pyro_vae.data.image_settings import AS_THEY_ARE, IMAGE_SUFFIXES, ImageSettings
from pyro_vae.data.packed_files import COMPRESSED
from pyro_vae.data.read_csv import read_text_table
from pyro_vae.data.read_excel import EXCEL_SUFFIXES, read_excel, split_sheet
from pyro_vae.data.read_numpy import read_npy, read_npz
from pyro_vae.data.sparse.read_sparse import is_sparse, table_from_sparse
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, table_from_array, without_mask
from pyro_vae.errors import InputError
from pyro_vae.resource_limits import require_columns, require_memory

DEFAULT_FIELDS = Fields()


def read_file(
    path: Path, header: str = "auto", fields: Fields = DEFAULT_FIELDS, images: ImageSettings = AS_THEY_ARE
) -> Table[Values] | Frame:
    """Read a file by its suffix, or a folder of images; `InputError` says what is wrong and what to try.

    Args:
        path: the file or folder.
        header: whether the first row of a text table holds the columns' names: `yes`, `no`, or `auto`, which looks.
        fields: which parts of annotated rows are read.
        images: how images are read; of other files, settings that are given are an error.

    Returns:
        The table of arrays, sparse rows, annotated rows and pictures, the data frame of a file of columns.
    """
    path, sheet = split_sheet(path)
    if not path.exists():
        raise InputError(f"no file or folder {path}; `pyro-vae datasets` lists the data sets that have names")
    is_of_images = is_image_source(path)
    if not is_of_images:
        require_no_image_settings(path, images)
    if path.suffix.lower() in ANNOTATED_SUFFIXES:
        return read_annotated(path, fields)
    _require_no_layer(fields, f"{path}: ")
    if is_of_images:
        return _read_images(path, images)
    if path.is_dir():
        return _read_parquet(path)
    suffix = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()
    is_text = suffix in TEXT_SUFFIXES
    reader = READERS.get(suffix)
    if suffix in EXCEL_SUFFIXES and path.stat().st_size:
        return read_excel(path, sheet, header)
    if reader is None and not is_text and suffix not in EXCEL_SUFFIXES:
        if remedy := REMEDIES.get(path.suffix.lower()):
            raise InputError(f"{path}: cannot read a {path.suffix}; {remedy}")
        known = ", ".join([*READERS, *EXCEL_SUFFIXES, *ANNOTATED_SUFFIXES, *TEXT_SUFFIXES])
        raise InputError(
            f"{path}: cannot read a {path.suffix or 'file without an ending'}; try one of {known}, or a "
            "folder of images"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    read = _read_text(path, header) if reader is None else reader(path)
    if 0 in read.values.shape:
        raise InputError(f"{path}: no rows in it")
    return read


def read_memory(data: object, fields: Fields = DEFAULT_FIELDS) -> Table[Values] | Frame:
    """Rows in memory.

    Args:
        data: an array or tensor (N, D), images (N, height, width), with channels before or after, a sparse matrix
            (N, D), a data frame of any library, or annotated rows (`anndata.AnnData`).
        fields: which parts of annotated rows are read.

    Returns:
        The table, or the frame.
    """
    if isinstance(data, AnnotatedRows):
        return table_from_annotated(data, Path("the annotated rows"), fields)
    _require_no_layer(fields)
    if is_sparse(data):
        return table_from_sparse(data, Path("the sparse matrix"))
    if is_frame(data):
        return read_frame(data, Path("the data frame"))
    source = Path("the array")
    return table_from_array(without_mask(data, source), source)


def _require_no_layer(fields: Fields, source: str = "") -> None:
    if fields.layer is not None:
        raise InputError(f"{source}a layer is one of annotated rows (AnnData, .h5ad, .zarr): leave layer (--layer) out")


def _read_text(path: Path, header: str) -> Frame:
    frame, notes, has_names = read_text_table(path, header)
    return without_row_numbers(Frame(frame, path, notes, has_names))


def _read_parquet(path: Path) -> Frame:
    import pandas

    _require_room(path)
    try:
        frame = pandas.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    folders = {part.partition("=")[0] for file in path.rglob("*.parquet") for part in file.relative_to(path).parts[:-1]}
    named = [str(name) for name in frame.columns if name in folders]
    notes = (f"{', '.join(named)}: from the names of the folders",) if named else ()
    return without_row_numbers(Frame(frame.reset_index(drop=True), path, notes))


def _require_room(path: Path) -> None:
    """`InputError` where the files of Parquet declare more cells than memory holds."""
    from pyro_vae.data.ondisk.parquet_to_npy import open_parquet

    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    about = [open_parquet(file).metadata for file in files]
    cells = sum(each.num_rows * each.num_columns for each in about)
    require_columns(max((each.num_columns for each in about), default=0), path)
    require_memory(8 * cells, str(path), "leave its rows on disk (--stream), or give fewer")


def _read_arrow(path: Path) -> Frame:
    """The table of a file of Arrow's, with random access (`.feather`) or a stream."""
    try:
        from pyarrow import ArrowInvalid, ipc, memory_map
    except ImportError as error:
        raise InputError(f"{path}: Arrow needs one more package; pip install 'pyro-vae[parquet]'") from error
    try:
        with memory_map(str(path)) as source:
            try:
                table = ipc.open_file(source).read_all()
            except ArrowInvalid:
                source.seek(0)
                table = ipc.open_stream(source).read_all()
            frame = table.to_pandas()
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable file of Arrow's ({error})") from error
    return without_row_numbers(Frame(frame.reset_index(drop=True), path))


def is_image_source(path: Path) -> bool:
    """Whether a path is read as images: an image, or a folder that is no table (`.zarr`, or with files of Parquet).

    Args:
        path: the file or folder.

    Returns:
        Whether it is.
    """
    suffix = path.suffix.lower()
    is_folder = path.is_dir() and suffix not in ANNOTATED_SUFFIXES and next(path.rglob("*.parquet"), None) is None
    return suffix in IMAGE_SUFFIXES or is_folder


def _read_images(path: Path, settings: ImageSettings) -> Table[Tensor]:
    from pyro_vae.data.read_images import read_images  # late: other files need no PIL

    return read_images(path, settings)


def require_no_image_settings(path: Path, settings: ImageSettings) -> None:
    """`InputError` where images are to be read in a way of their own, and this is none.

    Args:
        path: the source, for the message.
        settings: how images are to be read.
    """
    if settings.fitted is None and (settings.gray or settings.resize is not None):
        option = "--gray (gray)" if settings.gray else "--resize (resize)"
        raise InputError(f"{path}: {option} is for images and folders of images; leave it out")


TEXT_SUFFIXES = tuple(f"{text}{packed}" for packed in ("", *COMPRESSED) for text in (".csv", ".tsv"))
REMEDIES = {  # of files that people have: what to save instead
    ".xls": "save it as .xlsx",
    ".xlsb": "save it as .xlsx",
    ".ods": "save it as .xlsx or .csv",
    ".numbers": "save it as .xlsx or .csv",
    ".zip": "unpack it",
    ".gz": "unpack it",
    ".bz2": "unpack it",
    ".xz": "unpack it",
    ".zst": "unpack it",
    ".rds": "save it by write.csv, or as .parquet",
    ".pkl": "it may run code when it is read; save the rows as .npy, .npz or .parquet",
    ".mtx": "save it by scipy.sparse.save_npz",
}
READERS: dict[str, Callable[[Path], Table[Values] | Frame]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".parquet": _read_parquet,
    ".feather": _read_arrow,
    ".arrow": _read_arrow,
}
