"""How long tables are read, and in how much memory, beside pyarrow's and pandas' own readers.

Writes a table of normal numbers as CSV and Parquet, reads each in a process of its own, in turns, and prints medians.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

READERS = ("pyarrow", "pandas", "pyro_vae")


def read(reader: str, path: Path) -> dict[str, float]:
    """Seconds and the peak of memory (MiB) of one reader; imports are not counted."""
    import pandas
    import pyarrow.csv
    import pyarrow.parquet

    import pyro_vae as pv

    pv.load_data("two-moons")  # imports torch and the readers
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
    if reader == "pyarrow":
        kept = pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
    elif reader == "pandas":
        kept = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    else:
        kept = pv.load_data(path)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "mib": peak - before, "rows": len(kept.train) if reader == "pyro_vae" else len(kept)}


def write_tables(folder: Path, num_rows: int, num_columns: int) -> list[Path]:
    """The same normal numbers of six decimals as `t.csv` and `t.parquet`."""
    import numpy as np
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    values = np.random.default_rng(0).normal(size=(num_rows, num_columns)).round(6)
    table = pyarrow.table({f"c{i}": values[:, i] for i in range(num_columns)})
    pyarrow.csv.write_csv(table, folder / "t.csv")
    pyarrow.parquet.write_table(table, folder / "t.parquet")
    return [folder / "t.csv", folder / "t.parquet"]


@click.command()
@click.option("--rows", default=3_000_000, help="Rows of the table.")
@click.option("--columns", default=20, help="Columns of the table.")
@click.option("--turns", default=3, help="Interleaved turns.")
@click.option("--one", nargs=2, hidden=True, help="A reader and a file, in this process.")
def main(rows: int, columns: int, turns: int, one: tuple[str, str] | None) -> None:
    """Print a table of seconds and memory."""
    if one:
        print(json.dumps(read(one[0], Path(one[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = write_tables(Path(folder), rows, columns)
        print("| file | reader | seconds | more memory, MiB |\n|---|---|---|---|")
        for path in paths:
            found: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
            for _ in range(turns):
                for reader in READERS:
                    command = [sys.executable, __file__, "--one", reader, str(path)]
                    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    found[reader].append(json.loads(output))
            for reader, results in found.items():
                seconds, mib = (statistics.median(each[key] for each in results) for key in ("seconds", "mib"))
                size = path.stat().st_size / 2**20
                print(f"| {path.suffix}, {size:.0f} MiB | {reader} | {seconds:.1f} | {mib:.0f} |")


if __name__ == "__main__":
    main()
