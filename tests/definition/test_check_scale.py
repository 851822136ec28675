"""`check_scale`: the conditions that the paper sets a scale function (v3, Definition 3.1), one broken at a time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import timm_layeract.functional as LF
from tests.layer_act_cases import arctan_scale


@pytest.mark.parametrize(
    "scale",
    ["sigmoid", "hardsigmoid", pytest.param(arctan_scale, id="arctan"), pytest.param(torch.nn.Sigmoid(), id="module")],
)
def test_check_scale_passes(scale: LF.Scale) -> None:
    LF.check_scale(scale)


FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "at zero": (lambda n: torch.sigmoid(n + 1), r"scale\(0\) must be 1/2, got 0\.73"),
    "above one": (lambda n: torch.sigmoid(n) * 2 - 0.5, r"not bounded by 0 and 1: s\(.*\) = (1\.5|-0\.5)"),
    "unbounded, slowly": (lambda n: 0.5 + 1e-3 * n, r"not bounded by 0 and 1: s\(-?10000\)"),
    "falling": (lambda n: torch.sigmoid(-n), r"not increasing: it falls fastest near n = -?0(\.0\d*)?, slope -0\.25"),
    "dip": (lambda n: torch.sigmoid(n) - 0.2 * torch.exp(-((n - 4) ** 2)), r"falls fastest near n = 3\.\d+, slope"),
    "constant": (lambda n: torch.full_like(n, 0.5), "not increasing: it is constant, s = 0.5"),
    "jump off zero": (lambda n: torch.where(n > 5, 0.6, 0.5).to(n), r"not Lipschitz continuous.* near n = (4\.99|5)"),
    "vertical tangent": (
        lambda n: (0.5 + 0.3 * n.sign() * n.abs().sqrt()).clamp(0, 1),
        r"not Lipschitz continuous: slope .* near n = -?\d",
    ),
    "steep": (lambda n: torch.sigmoid(1000 * n), r"not Lipschitz continuous: slope 250 near"),
    "reduces": (lambda n: n.mean(), r"not elementwise: \[\d+\] values in, \[\] out"),
    "looks around": (lambda n: torch.softmax(n, 0), "not elementwise: its value at n changes with the other"),
    "nan": (lambda n: torch.where(n > 3, math.nan, torch.sigmoid(n)), r"not finite at n = 3\.00"),
    "overflow": (lambda n: n.exp() / (1 + n.exp()), r"not finite at n = \d"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_scale_names_the_condition_that_fails(fault: str) -> None:
    scale, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        LF.check_scale(scale)


def test_check_scale_takes_another_lipschitz_constant() -> None:
    LF.check_scale(lambda n: torch.sigmoid(1000 * n), max_slope=251)
    with pytest.raises(ValueError, match="Lipschitz"):
        LF.check_scale("sigmoid", max_slope=0.2)
