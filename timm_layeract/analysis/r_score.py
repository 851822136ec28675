"""The R score of an activation (Yuan & Zhu, equation 19) by quadrature, and its picture (figure 2)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._utils.files import csv_text
from .._utils.writing import write_whole
from ..errors import UserError
from ..layers.normalized_act import is_elementwise
from ..registry import activation_factory

__all__ = ["FIGURE_2", "plot_r_scores", "r_score", "report_r_scores", "write_r_scores"]

FIGURE_2 = ("relu", "leaky_relu", "tanh", "elu", "selu", "silu")

Function = Callable[[Tensor], Tensor]
# Half a panel is in [0, 12 sigma] on each side of 0, where most activations have their kink.
_PANELS, _NODES, _REACH = 20_000, 4, 12.0


def r_score(activation: Function, sigma: float) -> float:
    """``ln(Var[f(x)] / (Var[x] E[f'(x)^2]))`` for x normal with mean 0 and standard deviation `sigma`.

    0 only for linear functions, negative for all others (the paper's proposition): how far rho and rho' are apart,
    which no factor can mend. Gauss-Legendre quadrature in float64 over 12 standard deviations; accurate to about 1e-4
    where the function has kinks away from 0, to 1e-10 elsewhere.

    Args:
        activation: Elementwise function of a tensor.
        sigma: Standard deviation of the input, positive.

    Raises:
        UserError: `sigma` is not positive, or the function is constant where it was looked at.
    """
    if not sigma > 0:
        raise UserError(f"sigma is a standard deviation and must be positive, got {sigma}.")
    x, weight = _quadrature(sigma)
    leaf = x.requires_grad_()
    y = activation(leaf.clone())
    (slope,) = torch.autograd.grad(y.sum(), leaf)
    y, mean = y.detach(), (weight * y.detach()).sum()
    variance, slopes = (weight * (y - mean).square()).sum(), (weight * slope.square()).sum()
    if not (variance > 0 and slopes > 0):
        raise UserError(f"The activation is constant for inputs of standard deviation {sigma:g}: it has no R score.")
    return float((variance / (sigma**2 * slopes)).log())


def _quadrature(sigma: float) -> tuple[Tensor, Tensor]:
    """Points and weights that integrate against the density of N(0, sigma^2)."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = np.linspace(-_REACH, _REACH, _PANELS + 1)  # an even number of panels: 0 is an edge
    half = (edges[1] - edges[0]) / 2
    points = (edges[:-1, None] + half * (nodes + 1)).ravel()
    density = np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
    weight = np.tile(weights * half, _PANELS) * density
    return torch.from_numpy(points * sigma), torch.from_numpy(weight / weight.sum())


def report_r_scores(
    output: Path, names: Sequence[str] | None, lowest: float, highest: float, points: int, report: Callable[[str], None]
) -> None:
    """Integrate the scores of activations by name, write r_score.csv and r_score.png, and report the two ends.

    Args:
        output: Folder, made if need be.
        names: Activations of timm's or ours; those of figure 2 if None.
        lowest: Smallest standard deviation of the input.
        highest: Largest.
        points: How many, evenly on a logarithmic scale.
        report: Called with lines for a person to read.

    Raises:
        UserError: An unknown activation, one that is not elementwise, or a range that is none.
    """
    if not (0 < lowest < highest and points >= 2):
        raise UserError(f"Give 0 < --from < --to and at least 2 --points, got {lowest:g}, {highest:g}, {points}.")
    functions = {name: activation_factory(name)().eval() for name in names or FIGURE_2}
    for name, function in functions.items():
        if not is_elementwise(function):
            raise UserError(f"{name} is not an elementwise function, so it has no R score.")
    sigmas = np.geomspace(lowest, highest, points).tolist()
    scores = {name: [r_score(each.double(), sigma) for sigma in sigmas] for name, each in functions.items()}
    write_r_scores(scores, sigmas, output / "r_score.csv")
    plot_r_scores(scores, sigmas, output / "r_score.png")
    for name, values in scores.items():
        report(f"{name:14} {values[0]:+.4f} at {lowest:g}   {values[-1]:+.4f} at {highest:g}")
    report(f"written: {output / 'r_score.csv'}, {output / 'r_score.png'}")


def write_r_scores(scores: Mapping[str, Sequence[float]], sigmas: Sequence[float], path: Path) -> None:
    """Write the scores as CSV: a row for each sigma, a column for each activation."""
    rows = (
        [f"{sigma:.6g}", *(f"{each:.6f}" for each in row)] for sigma, *row in zip(sigmas, *scores.values(), strict=True)
    )
    write_whole(path, csv_text([["sigma", *scores], *rows]))


def plot_r_scores(scores: Mapping[str, Sequence[float]], sigmas: Sequence[float], path: Path) -> None:
    """Draw the scores over the standard deviation of the input, as figure 2 does, and write a PNG."""
    from .._utils.plotting import new_figure, save_figure

    figure, panels = new_figure(1, 1, 7, 4.2)
    axes = panels[0, 0]
    for name, values in scores.items():
        axes.plot(sigmas, values, label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="standard deviation of the input", ylabel="R score", xscale="log")
    axes.legend(fontsize="small", ncols=2)
    save_figure(figure, path)
