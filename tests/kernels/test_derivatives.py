"""Derivatives in every way that torch takes them, over the kernels and over torch's own modules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, jacobian

from timm_layeract import LAHardSiLU, LASiLU, LayerAct, kernels
from timm_layeract.kernels import compiled, cpu
from timm_layeract.layers.batch_norm_act import norm_act

SHAPE = (2, 3, 2, 2)


def plain(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def act(affine: bool = False) -> LayerAct:
    made = LayerAct("sigmoid", 1e-2, 3 if affine else None)
    for index, parameter in enumerate(made.parameters()):
        nn.init.constant_(parameter, 0.7 + index)
    return made


def site(training: bool, residual: str) -> Callable[[Tensor], Tensor]:
    """A BatchNorm with LayerAct behind it."""
    torch.manual_seed(0)
    norm, other, last = nn.BatchNorm2d(3).train(training), nn.BatchNorm2d(3).train(training), act(affine=True)
    for module in (norm, other):
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.uniform_(module.running_var, 0.5, 1.5)
    if residual == "none":
        return lambda x: norm_act(x, norm, last)
    return lambda x: norm_act(x, norm, last, x.tanh(), other if residual == "normalized" else None)


FUNCTIONS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "LA-SiLU": act,
    "affine": lambda: act(affine=True),
    "BatchNorm": lambda: site(True, "none"),
    "BatchNorm and residual": lambda: site(True, "plain"),
    "two BatchNorms": lambda: site(True, "normalized"),
    "evaluation": lambda: site(False, "normalized"),
}


@pytest.fixture(params=["cpu", "triton", "compiled", "composite"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the roads; "compiled" with its operations as they are; compiling is tested elsewhere."""
    if request.param == "cpu" and not cpu.available():
        pytest.skip("the CPU kernels were not built")
    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    return request.param


def reference(name: str) -> Callable[[Tensor], Tensor]:
    """The same network in float64, which no kernel takes."""
    function = FUNCTIONS[name]()
    if isinstance(function, nn.Module):
        function.double()
    else:
        for cell in function.__closure__ or ():
            if isinstance(cell.cell_contents, nn.Module):
                cell.cell_contents.double()
    return lambda x: function(x.double())


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vectorized_jacobian_is_that_of_float64_row_by_row(road: str, name: str) -> None:
    with kernels.use_backend(road):  # type: ignore[arg-type]
        found = jacobian(FUNCTIONS[name](), plain(), vectorize=True)
    close(found, jacobian(reference(name), plain().double()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vectorized_hessian_is_that_of_float64_row_by_row(road: str, name: str) -> None:
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    with kernels.use_backend(road):  # type: ignore[arg-type]
        function = FUNCTIONS[name]()
        found = hessian(lambda x: (function(x) * weights).sum(), plain(), vectorize=True)
    exact = reference(name)
    close(found, hessian(lambda x: (exact(x) * weights).sum(), plain().double()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_many_at_once(road: str, name: str) -> None:
    """`is_grads_batched`, and `torch.func.vmap` over a backward pass by hand: each as alone, parameters too."""
    upstream = torch.stack([plain(seed) for seed in range(1, 5)])
    with kernels.use_backend(road):  # type: ignore[arg-type]
        function, x = FUNCTIONS[name](), plain().requires_grad_()
        y = function(x)
        alone = [torch.autograd.grad(y, x, g, retain_graph=True)[0] for g in upstream]
        (batched,) = torch.autograd.grad(y, x, upstream, retain_graph=True, is_grads_batched=True)
        by_hand = torch.func.vmap(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0])(upstream)
    close(batched, torch.stack(alone))
    close(by_hand, torch.stack(alone))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_dual_gradient_keeps_its_tangent(road: str, name: str) -> None:
    """Forward mode over a backward pass: linear in the gradient that it is given."""
    with kernels.use_backend(road):  # type: ignore[arg-type]
        function, x = FUNCTIONS[name](), plain().requires_grad_()
        y = function(x)
        (wanted,) = torch.autograd.grad(y, x, plain(2), retain_graph=True)
        with forward_ad.dual_level():
            (found,) = torch.autograd.grad(y, x, forward_ad.make_dual(plain(1), plain(2)), retain_graph=True)
            tangent = forward_ad.unpack_dual(found).tangent
    close(tangent, wanted)


def test_a_whole_network(road: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), LASiLU(), nn.Conv2d(4, 2, 1), LAHardSiLU(), nn.Flatten()
    )
    with kernels.use_backend(road):  # type: ignore[arg-type]
        found = jacobian(model, plain(), vectorize=True)
    close(found, jacobian(model.double(), plain().double()))
