"""How many rows and draws a check uses: options of the command line, with their defaults, once."""

from dataclasses import dataclass, replace

from pyro_vae.options import Settings, setting

MIN_ROWS, MIN_REPLICATES, MIN_SIMULATIONS = 10, 10, 20
LEAST = {"num_replicates": 320, "num_simulations": 200, "num_scored": 50}  # of what a time limit leaves
GROUP = "Check"


@dataclass(frozen=True, kw_only=True)
class CheckSize(Settings):
    """How many rows and draws a check uses. Raises `InputError` for a number out of its bounds."""

    num_rows: int = setting(1000, int, "Rows held out that are checked, at most.", minimum=MIN_ROWS, group=GROUP)
    num_replicates: int = setting(
        400, int, "Data sets of as many rows drawn from the model.", minimum=MIN_REPLICATES, group=GROUP
    )
    num_simulations: int = setting(
        1000,
        int,
        "Rows simulated with their latents, for the calibration of the guide.",
        minimum=MIN_SIMULATIONS,
        group=GROUP,
    )
    num_draws: int = setting(99, int, "Draws from the guide for each of these.", minimum=9, group=GROUP)
    num_scored: int = setting(
        250,
        int,
        "Rows whose log p(x) is computed, of those held out and of the training rows.",
        minimum=MIN_ROWS,
        group=GROUP,
    )
    num_samples: int = setting(100, int, "Draws of z for log p(x) of each row.", minimum=2, group=GROUP)

    def scaled(self, factor: float) -> "CheckSize":
        """As many times the replicates, simulations and draws, not below what a verdict needs.

        Args:
            factor: how many times.

        Returns:
            The numbers.
        """
        given = vars(self)
        changed = {name: min(given[name], max(low, round(given[name] * factor))) for name, low in LEAST.items()}
        return replace(self, **changed)
