"""`pyro-vae datasets`: the data sets that have names."""

import click

from pyro_vae.cli.option_types import GroupedCommand, output_options
from pyro_vae.cli.print_json import print_json


@click.command(cls=GroupedCommand)
@output_options
def datasets(as_json: bool, debug: bool) -> None:
    """List the data sets that have names, and whether they need a network the first time."""
    from pyro_vae.data import NAMED_DATASETS

    if as_json:
        print_json(
            {
                "datasets": [
                    {"name": n, "description": d.description, "offline": d.offline} for n, d in NAMED_DATASETS.items()
                ]
            }
        )
        return
    for name, named in NAMED_DATASETS.items():
        click.echo(f"{name:<15}{named.description}{'' if named.offline else '; downloaded once, or --data-root'}")
    click.echo(
        "\nYour own: a .npy, .npz, .csv or .parquet file with a row for each observation, or a folder of images of "
        "one size."
    )
