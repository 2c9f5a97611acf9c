"""What `pyro.sample(…, obs_mask=…)` leaves out: Pyro makes a latent of it, which the guide may leave to the model."""

from collections.abc import Collection

from pyro.poutine.messenger import Messenger

from pyro_vae.programs.traces import Site

OBSERVED, UNOBSERVED = "_observed", "_unobserved"  # Pyro's endings of the two sites that it makes


class HideUnobserved(Messenger):
    """Values that were not observed, and that the guide does not draw, come from the model and count nowhere.

    Their density integrates to one, so they are no latents of log p(x), and no guide has to name them.

    Args:
        drawn: the names of those that the guide draws.
    """

    def __init__(self, drawn: Collection[str]) -> None:
        super().__init__()
        self.drawn, self.before = drawn, ""

    def _pyro_sample(self, msg: Site) -> None:
        name, before = msg["name"], self.before
        is_other_half = name.endswith(UNOBSERVED) and before == name.removesuffix(UNOBSERVED) + OBSERVED
        if is_other_half and name not in self.drawn and not msg["is_observed"]:
            msg["stop"] = True
        self.before = name


class NoteUnobserved(Messenger):
    """Notes which values that were not observed a guide draws, in `names`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"].endswith(UNOBSERVED):
            self.names.add(msg["name"])
