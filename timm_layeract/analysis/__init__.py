"""The papers' analyses and measures, each of which writes a JSON file and a picture.

`digits` has the small networks that the papers train on MNIST, `sites` the hooks into any network. Of the normalized
activations' paper, on how activations carry the variance of gradients through a network, `variance` watches one in
training, `r_score` integrates one function, `convergence` trains and counts.
"""

from .r_score import r_score
from .variance import VarianceRecorder, gradient_score, mean_weights

__all__ = ["VarianceRecorder", "gradient_score", "mean_weights", "r_score"]
