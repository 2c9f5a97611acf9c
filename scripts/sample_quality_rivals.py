"""What scripts/sample_quality.py asks of other packages, run by the Python of their own environment.

    python scripts/sample_quality_rivals.py table FILE.csv                 # the table of wages that ISLP ships
    python scripts/sample_quality_rivals.py draw FOLDER NUM SEED METHOD …  # FOLDER/training.csv to FOLDER/METHOD.csv
    python scripts/sample_quality_rivals.py judge FOLDER METHOD …          # sdmetrics on FOLDER/METHOD.csv

What a command has found is printed as JSON, by method. It imports nothing of pyro_vae; FOLDER/columns.json holds the
kind of each column.
"""

import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

TABLE = "table"
NEW_ROWS = 100  # that are looked up, which takes long
SDTYPES = {"categorical": "categorical", "binary": "categorical", "ordinal": "categorical", "datetime": "datetime"}


def read(folder: Path, name: str) -> pandas.DataFrame:
    """The columns of a file that are compared, dates as dates."""
    kinds = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    frame = pandas.read_csv(folder / f"{name}.csv")[list(kinds)]
    for column, kind in kinds.items():
        if kind == "datetime":
            frame[column] = pandas.to_datetime(frame[column])
    return frame


def describe(folder: Path) -> dict[str, Any]:
    """The columns as SDV's metadata has them."""
    kinds = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    columns = {name: {"sdtype": SDTYPES.get(kind, "numerical")} for name, kind in kinds.items()}
    for column in columns.values():
        if column["sdtype"] == "datetime":
            column["datetime_format"] = "%Y-%m-%d"
    return {"tables": {TABLE: {"columns": columns}}, "relationships": []}


def write_wages(path: Path) -> None:
    """The table of wages, without the columns that are constant or a function of another.

    ISLP is not imported: its modules ask for more packages.
    """
    found = importlib.util.find_spec("ISLP")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps ISLP")
    frame = pandas.read_csv(Path(found.origin).parent / "data" / "Wage.csv")
    frame.drop(columns=["region", "logwage"]).to_csv(path, index=False)


def draw(folder: Path, num: int, seed: int, methods: Sequence[str]) -> dict[str, float]:
    """Fit SDV's synthesizers at their defaults to the training rows, and draw; the seconds of each."""
    import torch
    from sdv import single_table
    from sdv.metadata import Metadata

    torch.set_num_threads(1)
    classes = {"tvae": single_table.TVAESynthesizer, "gaussian-copula": single_table.GaussianCopulaSynthesizer}
    training, metadata, seconds = read(folder, "training"), Metadata.load_from_dict(describe(folder)), {}
    for method in methods:
        np.random.seed(seed)  # noqa: NPY002 - what SDV and ctgan draw from
        torch.manual_seed(seed)
        began = time.process_time()
        synthesizer = classes[method](metadata)
        synthesizer.fit({TABLE: training})
        found = synthesizer.sample(num_rows=num)[TABLE]
        seconds[method] = time.process_time() - began
        found.to_csv(folder / f"{method}.csv", index=False)
    return seconds


def judge(folder: Path, method: str) -> dict[str, float]:
    """sdmetrics' scores of drawn rows, 0 to 1, higher is better: quality against the rows held out."""
    from sdmetrics.reports import QualityReport
    from sdmetrics.single_table import DCROverfittingProtection, NewRowSynthesis

    about = describe(folder)
    rows, training, drawn = ({TABLE: read(folder, name)} for name in ("rows", "training", method))
    np.random.seed(0)  # noqa: NPY002 - by which sdmetrics takes some of the rows
    report = QualityReport()
    report.generate(rows, drawn, about, verbose=False)
    found = report.get_properties().set_index("Property")["Score"]
    fewest = min(len(each[TABLE]) for each in (rows, training, drawn))
    protection = DCROverfittingProtection.compute(training, drawn, rows[TABLE], about, TABLE, fewest, num_iterations=3)
    some = min(NEW_ROWS, len(drawn[TABLE]))
    new = NewRowSynthesis.compute(training, drawn, about, TABLE, synthetic_sample_size=some)
    shapes, pairs = found["Column Shapes"], found["Column Pair Trends"]
    scores = {"shapes": shapes, "pair_trends": pairs, "overfitting_protection": protection, "new_rows": new}
    return {name: float(score) for name, score in scores.items()}


def main() -> None:
    """Do what the first argument says."""
    warnings.simplefilter("ignore")
    command, path, *rest = sys.argv[1:]
    if command == "table":
        write_wages(Path(path))
    elif command == "draw":
        num, seed, *methods = rest
        print(json.dumps(draw(Path(path), int(num), int(seed), methods)))
    else:
        print(json.dumps({method: judge(Path(path), method) for method in rest}))


if __name__ == "__main__":
    main()
