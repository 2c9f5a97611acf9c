"""The columns of a table and their kinds: what they are, how they are inferred, and what a user says of them."""

from pyro_vae.data.columns.column import DAY as DAY
from pyro_vae.data.columns.column import FAMILIES as FAMILIES
from pyro_vae.data.columns.column import KINDS as KINDS
from pyro_vae.data.columns.column import MODELLED as MODELLED
from pyro_vae.data.columns.column import NUMBERS as NUMBERS
from pyro_vae.data.columns.column import ROLES as ROLES
from pyro_vae.data.columns.column import WHOLE as WHOLE
from pyro_vae.data.columns.column import WITH_LEVELS as WITH_LEVELS
from pyro_vae.data.columns.column import Column as Column
from pyro_vae.data.columns.column import Level as Level
from pyro_vae.data.columns.schema import Schema as Schema
