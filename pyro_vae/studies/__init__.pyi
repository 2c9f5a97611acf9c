from .autoencoder_vs_vae_encoders import evaluate_encoder as evaluate_encoder
from .autoencoder_vs_vae_encoders import fit_encoder as fit_encoder
from .autoencoder_vs_vae_encoders import reconstruction_error as reconstruction_error
from .coordinate_ascent import CoordinateAscentDemo as CoordinateAscentDemo
from .coordinate_ascent import coordinate_ascent_demo as coordinate_ascent_demo
from .em_bounds import plot_coordinate_ascent as plot_coordinate_ascent
from .posterior_collapse import CollapseResult as CollapseResult
from .posterior_collapse import compare_remedies as compare_remedies
from .posterior_collapse import plot_collapse as plot_collapse
from .squared_error_trap import SquaredErrorTrap as SquaredErrorTrap
from .squared_error_trap import measure_squared_error_trap as measure_squared_error_trap
from .squared_error_trap_figures import plot_squared_error_trap as plot_squared_error_trap

__all__ = [
    "CollapseResult",
    "CoordinateAscentDemo",
    "SquaredErrorTrap",
    "compare_remedies",
    "coordinate_ascent_demo",
    "evaluate_encoder",
    "fit_encoder",
    "measure_squared_error_trap",
    "plot_collapse",
    "plot_coordinate_ascent",
    "plot_squared_error_trap",
    "reconstruction_error",
]
