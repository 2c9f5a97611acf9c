"""The table of all rows of a file or of rows in memory, with the kinds that they suggest."""

from pyro_vae.data.columns.column_options import ColumnOptions
from pyro_vae.data.columns.infer_columns import infer_schema
from pyro_vae.data.frames import Frame
from pyro_vae.data.read_files import read_file, read_memory
from pyro_vae.data.table import table_from_frame


def whole_table(source, header="auto", **options):
    """Of a path the file's rows, else those of the array or frame."""
    read = read_file(source, header) if hasattr(source, "exists") else read_memory(source)
    if not isinstance(read, Frame):
        return read
    return table_from_frame(read, infer_schema(read, ColumnOptions(**options)))
