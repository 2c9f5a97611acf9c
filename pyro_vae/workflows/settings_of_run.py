"""The settings that a run was fitted with, read from its folder."""

from pathlib import Path

from pyro_vae.options import Value
from pyro_vae.run_folder import CONFIG, read_config
from pyro_vae.workflows.fit_settings import (
    coding_of_run,
    fit_options,
    flatten_config,
    require_program,
    settings_of_earlier_version,
)


def settings_of_run(folder: Path, program: str | None) -> dict[str, Value | Path]:
    """The settings that a run was fitted with, to go on with it or to fit it anew.

    Args:
        folder: the run's folder.
        program: `FILE.py:FUNCTION` of a program of one's own: `InputError` where the run needs one, or none.

    Returns:
        The settings by name, as `FitSettings.from_options` takes them.
    """
    config = read_config(folder)
    require_program(config, str(folder / CONFIG), program)
    said = flatten_config(config, fit_options(), str(folder / CONFIG))
    kept = settings_of_earlier_version(config) | said | coding_of_run(config)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()}
