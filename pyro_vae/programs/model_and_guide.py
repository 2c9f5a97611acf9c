"""A program is a model and a guide: two functions, and the parameters that they make, as one object."""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, ClassVar

from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.argument_checks import check_call
from pyro_vae.data import Measure, RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.programs.encode_rows import encode, reconstruct
from pyro_vae.programs.parameters import ParamStoreModule, use_param_store
from pyro_vae.programs.pyro_guides import keep_waiting_state, load_waiting_state, mend_pyro_guide
from pyro_vae.programs.row_inputs import RowInputs, accepts_row_inputs, bind_supported_kwargs, model_takes
from pyro_vae.programs.sample_rows import sample
from pyro_vae.programs.unobserved_values import HideUnobserved, NoteUnobserved
from pyro_vae.typing import RowLatents, Rows


class Program(ParamStoreModule):
    """Two plain Pyro functions, `model(x)` and `guide(x)`, as one object that can be fitted, scored, sampled and saved.

    Parameters that the functions create by `pyro.param` and `pyro.module` belong to the program: each call of `model`
    and `guide` uses this program's parameters and no others, so that two programs may use the same names. Functions get
    `rows`, `labels`, `mask` or `num_rows` by taking a keyword of that name (`docs/programs.md` explains each).

    Args:
        model: the Pyro function p(x, z) of rows x (N, D), which observes x.
        guide: the Pyro function q(z|x) of rows x (N, D), with a sample site for each latent of the model.

    >>> import torch, pyro, pyro.distributions as dist, pyro_vae as pv
    >>> def model(x):
    ...     loc = pyro.param("loc", torch.zeros(x.shape[1]))
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(loc + z[..., None], 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     weight = pyro.param("weight", torch.ones(x.shape[1]))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x @ weight, 1.0))
    >>> program = pv.Program(model, guide)
    >>> fitted = pv.fit(program, torch.randn(64, 3), epochs=2)
    >>> pv.log_evidence(program, torch.randn(5, 3), num_samples=50).log_px.shape
    torch.Size([5])
    """

    no_density: ClassVar[str] = ""  # why there is no p(x), for a subclass that has none
    num_features: int | None  # the width of x, set by the first fit where it is None
    fitted_measure: Measure | None = None  # how the rows that it was fitted to were prepared

    @check_call
    def __init__(self, model: Callable[..., object], guide: Callable[..., object]) -> None:
        super().__init__()
        self._model, self._guide = model, guide
        owners = [function.__self__ if isinstance(function, MethodType) else function for function in (model, guide)]
        if any(isinstance(owner, Program) for owner in owners):
            raise InputError("this is a program already: fit it as it is, or give Program two plain functions")
        if isinstance(guide, GuideMessenger):
            raise InputError(
                f"{type(guide).__name__} is a handler of the model, and draws no latents of its own: take AutoNormal, "
                "or another autoguide"
            )
        self.owners = nn.ModuleList(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module)))
        self.num_features = None

    @accepts_row_inputs
    def model(self, x: Rows, *args: Any, **row_inputs: Any) -> object:  # Any: a subclass names those that it takes
        """Run the model with this program's parameters, on rows x (N, D) and those of their inputs that it takes."""
        hidden = HideUnobserved(self.__dict__.get("_imputed", frozenset()))
        return self._run(self._model, x, args, row_inputs, hidden)

    @accepts_row_inputs
    def guide(self, x: Rows, *args: Any, **row_inputs: Any) -> object:
        """Run the guide with this program's parameters, on rows x (N, D) and those of their inputs that it takes."""
        load_waiting_state(self, lambda: self._run(self._guide, x, args, row_inputs, NoteUnobserved()))
        drawn = NoteUnobserved()
        result = self._run(self._guide, x, args, row_inputs, drawn)
        self.__dict__["_imputed"] = frozenset(drawn.names)
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state as torch does; what an autoguide has not made yet is loaded when it first runs.

        Args:
            state_dict: parameters and buffers by name.
            strict: whether missing and unexpected names are errors.
            assign: as torch has it.

        Returns:
            What torch returns: the names that are missing and those that are unexpected.
        """
        now = keep_waiting_state(self, state_dict)
        return super().load_state_dict(now, strict=strict, assign=assign)

    def takes_row_input(self, name: str) -> bool:
        """Whether the model takes a row input: rows, labels, mask, num_rows or one of your own."""
        return model_takes(self, name)

    @property
    def functions(self) -> tuple[Callable[..., object], Callable[..., object]]:
        """Model and guide as functions whose signatures say what row inputs they take."""
        return (
            self._model if type(self).model is Program.model else self.model,
            self._guide if type(self).guide is Program.guide else self.guide,
        )

    def _run(
        self,
        function: Callable[..., object],
        x: Rows,
        args: tuple[object, ...],
        row_inputs: RowInputs,
        handler: Messenger,
    ) -> object:
        if args:
            raise TypeError("a program's functions take x, and its inputs (rows, labels, mask, num_rows) by keyword")
        mend_pyro_guide(self._guide, self._model)
        with use_param_store(self), handler:
            return bind_supported_kwargs(function)(x, row_inputs)

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """Before a fit: set initial values from data. By default nothing is set.

        Args:
            mean: the mean (D,) of the training rows.
            rows: some of them (n, D).
        """

    def init_from_labels(self, labels: Tensor) -> None:
        """Before a fit: set initial values from the labels (N,) of the training rows. By default nothing is set."""

    def check_labels(self, labels: Tensor) -> None:
        """Raise `InputError` for labels (N,) that the program cannot take. By default it takes any."""

    def log_prior(self) -> Tensor | None:
        """The parameters' log prior, () nats, differentiable, which `fit` adds to the objective; None by default."""
        return None

    def encode(self, x: RowsGiven, **row_inputs: object) -> RowLatents:
        """Posterior means (N, K), latent sites concatenated; from 64 draws where a site has no mean."""
        return encode(self, x, **row_inputs)

    def reconstruct(self, x: RowsGiven, **row_inputs: object) -> Tensor:
        """E[x | z] at the guide's posterior means, (N, D); of a model that observes something else, its mean."""
        return reconstruct(self, x, **row_inputs)

    def sample(self, n: int, seed: int | None = None, *, x: Rows | None = None, **row_inputs: object) -> Tensor:
        """New rows from the model: z from the prior, then x from the likelihood.

        Args:
            n: the number of rows.
            seed: a seed of the random numbers; None continues with torch's generator.
            x: rows (n, D) for a model that reads x besides observing it, as a conditional one does.
            **row_inputs: inputs of the new rows, for a model that takes them.

        Returns:
            Rows (n, D).
        """
        return sample(self, n, seed=seed, x=x, row_inputs=row_inputs)
