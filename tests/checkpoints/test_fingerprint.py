"""`timm_layeract.checkpoints.fingerprint`: what it names, what it tells apart, and how a mismatch reads."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from timm_layeract import LAHardSiLU, LASiLU, LayerAct, LazyLayerAct
from timm_layeract.checkpoints import fingerprint
from timm_layeract.checkpoints.fingerprint import (
    ActivationMismatchError,
    activation_fingerprint,
    activation_types,
    check_fingerprint,
    describe_activation,
    fingerprint_mismatches,
)
from timm_layeract.errors import UserError


def steep(n: Tensor, slope: float = 2.0) -> Tensor:
    return torch.sigmoid(slope * n)


class SteepScale:
    def __call__(self, n: Tensor) -> Tensor:
        return steep(n)


def test_sites_and_their_order() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Sequential(LASiLU(alpha=0.1), nn.Identity()), nn.Softmax(dim=1)
    )
    sites = {"1": "ReLU()", "2.0": "LASiLU(alpha=0.1)", "3": "Softmax(dim=1)"}
    assert activation_fingerprint(model) == sites
    assert list(activation_fingerprint(model)) == list(sites)
    assert activation_fingerprint(nn.Linear(2, 2)) == {}


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.LeakyReLU(0.2, inplace=True), "LeakyReLU(negative_slope=0.2)"),
        (nn.GELU(), "GELU(approximate=none)"),
        (nn.GELU(approximate="tanh"), "GELU(approximate=tanh)"),
        (nn.ELU(0.5), "ELU(alpha=0.5)"),
        (nn.PReLU(3, init=0.1), "PReLU(num_parameters=3)"),
        (nn.ReLU6(), "ReLU6(min_val=0, max_val=6)"),
        (nn.Softplus(2, 10), "Softplus(beta=2, threshold=10)"),
        (LASiLU(), "LASiLU(alpha=1e-05)"),
        (LAHardSiLU(0.1), "LAHardSiLU(alpha=0.1)"),
        (LayerAct("hardsigmoid", 0.1), "LayerAct(scale=hardsigmoid, alpha=0.1)"),
        (LayerAct(num_channels=3), "LayerAct(scale=sigmoid, alpha=1e-05, affine=True)"),
        (LayerAct(steep), f"LayerAct(scale={__name__}.steep, alpha=1e-05)"),
        (LayerAct(SteepScale()), f"LayerAct(scale={__name__}.SteepScale, alpha=1e-05)"),
        (
            LayerAct(functools.partial(steep, slope=3.0)),
            f"LayerAct(scale={__name__}.steep(slope=3), alpha=1e-05)",
        ),
        (LayerAct(nn.Hardtanh(0, 1)), "LayerAct(alpha=1e-05, scale=Hardtanh(min_val=0, max_val=1))"),
    ],
    ids=lambda value: value.split("(")[0] if isinstance(value, str) else "",
)
def test_description(module: nn.Module, text: str) -> None:
    assert describe_activation(module) == text
    assert describe_activation(copy.deepcopy(module).eval()) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.RReLU(0.1, 0.3), nn.RReLU(0.1, 0.2)),
        (nn.Hardtanh(-1, 1), nn.Hardtanh(-1, 2)),
        (nn.Threshold(0.1, 20), nn.Threshold(0.1, 10)),
        (nn.Softshrink(0.5), nn.Softshrink(0.4)),
        (nn.CELU(1.0), nn.CELU(2.0)),
        (nn.Softmax(1), nn.Softmax(-1)),
        (nn.GELU(), nn.GELU("tanh")),
        (nn.ReLU(), nn.SiLU()),
        (LASiLU(), LayerAct()),
        (LASiLU(1e-5), LASiLU(0.1)),
        (LayerAct("sigmoid"), LayerAct("hardsigmoid")),
        (LayerAct(steep), LayerAct(torch.sigmoid)),
        (LayerAct(), LayerAct(num_channels=3)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_parameters_are_told_apart(one: nn.Module, other: nn.Module) -> None:
    assert describe_activation(one) != describe_activation(other)


def test_lazy_is_the_materialised() -> None:
    lazy = nn.Sequential(nn.Conv2d(3, 4, 1), LazyLayerAct("hardsigmoid", alpha=0.1))
    before = activation_fingerprint(lazy)
    lazy(torch.randn(2, 3, 4, 4))
    assert type(lazy[1]) is LayerAct
    assert activation_fingerprint(lazy) == before == {"1": "LayerAct(scale=hardsigmoid, alpha=0.1, affine=True)"}


def test_a_shared_module_stands_at_each_of_its_paths() -> None:
    shared = nn.ReLU()
    assert activation_fingerprint(nn.Sequential(shared, nn.Sequential(shared), nn.SiLU())) == {
        "0": "ReLU()",
        "1.0": "ReLU()",
        "2": "SiLU()",
    }


def test_the_model_may_be_the_activation() -> None:
    assert activation_fingerprint(LASiLU()) == {"": "LASiLU(alpha=1e-05)"}


def test_inplace_and_mode_do_not_count() -> None:
    plain, other = nn.Sequential(nn.ReLU(), nn.SiLU()), nn.Sequential(nn.ReLU(inplace=True), nn.SiLU(inplace=True))
    assert activation_fingerprint(plain) == activation_fingerprint(other.eval())


def test_mismatches_are_listed() -> None:
    expected = {"a": "ReLU()", "b": "LASiLU(alpha=1e-05)", "c": "GELU(approximate=none)"}
    built = {"a": "ReLU()", "b": "LASiLU(alpha=0.1)", "d": "SiLU()"}
    assert fingerprint_mismatches(expected, built) == [
        "b: LASiLU(alpha=1e-05) expected, LASiLU(alpha=0.1) found",
        "c: GELU(approximate=none) expected, nothing found",
        "d: nothing expected, SiLU() found",
    ]
    assert fingerprint_mismatches(built, dict(reversed(built.items()))) == []


def test_check_passes_the_same_and_refuses_another() -> None:
    model = nn.Sequential(*(LASiLU() for _ in range(7)))
    check_fingerprint(activation_fingerprint(model), model, "some.safetensors")
    check_fingerprint({}, nn.Linear(2, 2), "some.safetensors")
    relu = nn.Sequential(*(nn.ReLU() for _ in range(7)))
    with pytest.raises(ActivationMismatchError) as caught:
        check_fingerprint(activation_fingerprint(model), relu, "some.safetensors")
    message = str(caught.value)
    assert message.startswith("some.safetensors holds weights for other activations than this model runs, at 7 site(s)")
    for site in range(2):
        assert f"{site}: LASiLU(alpha=1e-05) expected, ReLU() found" in message
    assert "; and 5 more." in message
    assert "2: " not in message
    assert "act_layer" in message
    assert "\n" not in message


def test_a_few_mismatches_are_shown_whole() -> None:
    with pytest.raises(ActivationMismatchError, match=r"at 1 site\(s\): 0: SiLU\(\) expected, ReLU\(\) found\. Build"):
        check_fingerprint({"0": "SiLU()"}, nn.Sequential(nn.ReLU()), "x")


def test_the_error_is_public_and_a_users() -> None:
    assert "ActivationMismatchError" in fingerprint.__all__
    assert issubclass(ActivationMismatchError, UserError)
    assert issubclass(ActivationMismatchError, ValueError)


def test_types_leave_out_the_identity_and_attention() -> None:
    types = activation_types()
    assert {nn.ReLU, nn.GELU, LayerAct} <= set(types)
    assert not {nn.Identity, nn.MultiheadAttention, nn.Module} & set(types)
