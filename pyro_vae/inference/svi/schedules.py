"""Learning-rate schedules: from the share of all steps that is done, in [0, 1], to the factor of the learning rate.

>>> [round(cosine(done), 3) for done in (0.0, 0.5, 1.0)]
[1.0, 0.5, 0.0]
"""

import math


def constant(done: float) -> float:
    """One, whatever is done."""
    return 1.0


def cosine(done: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * done))


def one_cycle(done: float) -> float:
    """From 1/25 to 1 over the first 30 %, then to 0 (Smith & Topin, arXiv:1708.07120)."""
    if done < 0.3:
        return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * done / 0.3))
    return 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
