from .fit_figures import plot_posterior as plot_posterior
from .latent_figures import LatentFigure as LatentFigure
from .latent_figures import draw_latent_figures as draw_latent_figures
from .learning_curve_figures import plot_curves as plot_curves
from .learning_curve_figures import plot_gap as plot_gap
from .mixture_densities import plot_components as plot_components
from .mixture_densities import plot_planes as plot_planes
from .mixture_selection import plot_selection as plot_selection

__all__ = [
    "LatentFigure",
    "draw_latent_figures",
    "plot_components",
    "plot_curves",
    "plot_gap",
    "plot_planes",
    "plot_posterior",
    "plot_selection",
]
