"""A prior of one's own, as another package would have it: one class, whose arguments are recorded."""

import pyro.distributions as dist
import torch

from pyro_vae.constructor_args import part
from pyro_vae.option_registry import Entry
from pyro_vae.part_bases import PriorModule

ENTRY = Entry("theirs", "builtins:dict")  # what an entry point of another package leads to


@part
class ShiftedNormal(PriorModule):
    """A normal with mean `shift` and scale one in each of `num_latents` dimensions."""

    def __init__(self, num_latents, shift=0.0):
        super().__init__()
        self.shift = shift
        self.register_buffer("loc", torch.full((num_latents,), float(shift)), persistent=False)

    def forward(self):
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
