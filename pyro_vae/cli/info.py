"""`pyro-vae info`: what a run's folder holds."""

from pathlib import Path

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import RUN, GroupedCommand, output_options
from pyro_vae.cli.print_json import print_json


@click.command(cls=GroupedCommand)
@RUN
@output_options
def info(run: Path, as_json: bool, debug: bool) -> None:
    """Say what a run holds: its settings, how far its fit went, and what was found when it was scored."""
    from pyro_vae.atomic_write import read_json, read_json_lines
    from pyro_vae.evidence.evidence_record import EvidenceRecord
    from pyro_vae.run_folder import EVALUATION, METRICS, read_config

    config = read_config(run)
    path = run / EVALUATION
    evaluation = read_json(path) if path.exists() else {}
    records = {split: EvidenceRecord.from_dict(record) for split, record in evaluation.items()}
    history = read_json_lines(run / METRICS, complete=path.exists())
    found = {
        "run": str(run),
        "finished": path.exists(),
        "epochs": len(history),
        "last_epoch": history[-1] if history else None,
    }
    groups = {group: config.get(group, {}) for group in ("about", "data", "model", "objective", "training")}
    if as_json:
        print_json(found | groups | {"evaluation": evaluation})
        return
    state = (
        f"{len(history)} epochs, finished"
        if path.exists()
        else f"{len(history)} epochs, not finished: pyro-vae fit --resume {run}"
    )
    echo(f"{run}: {state}")
    for group, settings in groups.items():
        echo(f"\n{group}\n" + "\n".join(f"  {name:<16}{value}" for name, value in settings.items()))
    if evaluation:
        from pyro_vae.cli.print_tables import print_record

        for split, record in records.items():
            echo()
            print_record(record, f"{split} rows")
