"""`pyro-vae datasets`: the data sets that have names."""

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import GroupedCommand, output_options
from pyro_vae.cli.print_json import print_json
from pyro_vae.data.named_datasets import NAMED_DATASETS


@click.command(cls=GroupedCommand)
@output_options
def datasets(as_json: bool, debug: bool) -> None:
    """List the data sets that have names, and whether they need a network the first time."""
    if as_json:
        rows = [{"name": d.name, "description": d.help, "offline": d.offline} for d in NAMED_DATASETS.values()]
        print_json({"datasets": rows})
        return
    for name, named in NAMED_DATASETS.items():
        echo(f"{name:<15}{named.help}{'' if named.offline else '; downloaded once, or --data-root'}")
    echo(
        "\nYour own: a .npy, .npz, .csv or .parquet file with a row for each observation, or a folder of images of "
        "one size."
    )
