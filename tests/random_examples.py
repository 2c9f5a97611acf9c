"""How many random examples a property test tries: a few that are always the same, or PYRO_VAE_EXAMPLES others.

`PYRO_VAE_EXAMPLES=2000 pytest tests/test_properties_of_tables.py` prints how to repeat a failure.
"""

import os

from hypothesis import HealthCheck, Phase, settings

from pyro_vae.errors import InputError

MORE = os.environ.get("PYRO_VAE_EXAMPLES")


def examples(few):
    """The settings of a property test that tries `few` examples by default."""
    return settings(
        max_examples=int(MORE) if MORE else few,
        derandomize=not MORE,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        print_blob=bool(MORE),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def attempt(function, *args, **keywords):
    """What a call returns and an empty text, or None and the message of its `InputError`."""
    try:
        return function(*args, **keywords), ""
    except InputError as error:
        return None, str(error)
