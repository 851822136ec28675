"""Distributions as JSON and as pictures."""

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from torch import Tensor
from typing_extensions import TypedDict

__all__ = ["QUANTILES", "Distribution", "describe", "draw_boxes"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Distribution(TypedDict):
    """Count, mean, standard deviation and the quantiles at `QUANTILES` of some values."""

    count: int
    mean: float
    std: float
    quantiles: list[float]


def describe(values: Tensor) -> Distribution:
    """Mean, deviation and the quantiles at `QUANTILES` of the values of a tensor."""
    flat = values.detach().cpu().double().flatten()
    quantiles = torch.quantile(flat, torch.tensor(QUANTILES, dtype=flat.dtype))
    return {
        "count": len(flat),
        "mean": float(flat.mean()),
        "std": float(flat.std(correction=0)),
        "quantiles": quantiles.tolist(),
    }


def draw_boxes(panel: Axes, described: Mapping[str, Distribution], title: str) -> None:
    """One horizontal box each: quartiles, whiskers at 5 and 95 %, and the mean."""
    boxes = []
    for name, values in described.items():
        low, first, median, third, high = values["quantiles"]
        boxes.append({"label": name, "whislo": low, "q1": first, "med": median, "q3": third, "whishi": high,
                      "mean": values["mean"]})  # fmt: skip
    drawn = panel.bxp(boxes, orientation="horizontal", showfliers=False, showmeans=True, patch_artist=True)
    for box in drawn["boxes"]:
        box.set_facecolor("lightsteelblue")
    panel.invert_yaxis()
    panel.set_title(title, fontsize=9)
    panel.tick_params(labelsize=7)
