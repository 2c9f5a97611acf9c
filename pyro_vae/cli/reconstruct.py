"""`pyro-vae reconstruct`: E[x | z] at the posterior mean of each row."""

from pathlib import Path
from typing import Any

from pyro_vae.cli.encode import rows_command
from pyro_vae.cli.print_json import print_export
from pyro_vae.cli.streams import progress_style


@rows_command
def reconstruct(run: Path, as_json: bool, debug: bool, **options: Any) -> None:
    """Write E[x | z] at each row's posterior mean: a table in its own units, pixels between 0 and 1.

    DATA is a file, whose rows keep their order, or a named data set; without it, the run's own.
    """
    from pyro_vae.workflows.export_rows import reconstruct_run

    print_export(reconstruct_run(run, progress=progress_style(), **options), as_json)
