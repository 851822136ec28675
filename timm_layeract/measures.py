"""The measures of `analysis` by their earlier name."""

from .analysis import VarianceRecorder, gradient_score, mean_weights, r_score

__all__ = ["VarianceRecorder", "gradient_score", "mean_weights", "r_score"]
