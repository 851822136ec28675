"""Measures of the normalized activations' paper: how activations carry the variance of gradients through a network.

`variance` watches a network in training, `r_score` integrates one function, `convergence` trains and counts.
"""

from .r_score import r_score
from .variance import VarianceRecorder, gradient_score, mean_weights

__all__ = ["VarianceRecorder", "gradient_score", "mean_weights", "r_score"]
