"""The squared-error trap of note 000 on real digits: a piece cut off, or one pixel to the right? docs/ae_vs_vae.md."""

import json
from pathlib import Path

import click

import pyro_vae as pv


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--data", default="mnist", help="A data set of pictures that the run was fitted to.")
@click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's data sets.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="test")
@click.option("--rows", default=1000, help="How many of its rows.")
@click.option("--num-samples", default=100, help="Draws for each log p(x).")
@click.option("--picture", type=click.Path(path_type=Path), help="Where to write the figure.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the numbers.")
def main(
    run: Path,
    data: str,
    data_root: str | None,
    split: str,
    rows: int,
    num_samples: int,
    picture: Path | None,
    path: Path | None,
) -> None:
    """Shift and cut some rows of RUN's data: how often each measure calls the shifted one nearer."""
    held_out = pv.load_data(data, root=data_root).split(split).head(rows)
    found = pv.shifts(pv.load(run), held_out, num_samples=num_samples)
    table = []
    for share in found.cuts:
        votes = found.nearer(share)
        said = "  ".join(f"{name} {vote.value:.1%} ± {vote.se:.1%}" for name, vote in votes.items())
        click.echo(f"ink removed {found.removed(share):.1%} (asked {share:.0%}): {said}")
        shares = {name: {"value": vote.value, "se": vote.se} for name, vote in votes.items()}
        table.append({"asked": share, "removed": found.removed(share)} | shares)
    if path is not None:
        path.write_text(json.dumps({"rows": len(held_out), "split": split, "cuts": table}, indent=1) + "\n")
    if picture is not None:
        pv.plot_shifts(found).savefig(picture)


if __name__ == "__main__":
    main()
