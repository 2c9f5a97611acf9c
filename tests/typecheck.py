"""The type checker of the tests: beartype, where an int may stand for a float as in Python's own rules.

`Self` is not checked: beartype knows it only in classes that it decorates whole, and the import hook decorates methods.
"""

from typing import Self

from beartype import BeartypeConf, FrozenDict, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: object})))
