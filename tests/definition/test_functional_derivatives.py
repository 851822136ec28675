"""`timm_layeract.functional` under forward mode, second derivatives, vmap and torch.compile."""

import functools

import pytest
import torch
from torch import Tensor

import timm_layeract.functional as LF
from tests.layer_act_cases import ACTIVATIONS, TOLERANCES, array, assert_close, by_activation, sample

# --- derivatives of every kind ----------------------------------------------------------------------------------------


@by_activation
@pytest.mark.parametrize("layout", [(3, 4), (2, 3, 5), (2, 3, 2, 2), "channels_last"], ids=str)
def test_gradcheck_reverse_and_forward(name: str, layout: tuple[int, ...] | str) -> None:
    x = sample(2, 3, 2, 2).to(memory_format=torch.channels_last) if isinstance(layout, str) else sample(*layout)
    x.requires_grad_()
    activation = functools.partial(ACTIVATIONS[name][0], alpha=0.1)
    assert torch.autograd.gradcheck(
        activation, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(activation, x)


def test_gradcheck_affine() -> None:
    x = sample(2, 3, 2, 2).requires_grad_()
    weight = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.25, 0.5, -1.0], dtype=torch.float64, requires_grad=True)

    def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return LF.layer_act(x, "sigmoid", 0.1, weight, bias)

    assert torch.autograd.gradcheck(affine, (x, weight, bias), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(affine, (x, weight, bias))


@by_activation
def test_func_transforms(name: str) -> None:
    activation = functools.partial(ACTIVATIONS[name][0], alpha=0.1)
    x = sample(5, 2, 3, 4)  # an outer dimension, then a batch of two
    torch.testing.assert_close(torch.func.vmap(activation)(x), torch.stack([activation(one) for one in x]))
    along_one = torch.func.vmap(activation, in_dims=1, out_dims=1)(x)
    torch.testing.assert_close(along_one, torch.stack([activation(x[:, i]) for i in range(2)], 1))

    def loss(one: Tensor) -> Tensor:  # one sample, as in per-sample gradients
        return (activation(one[None]) ** 2).sum()

    batch = x[:, 0].clone().requires_grad_()
    (expected,) = torch.autograd.grad((activation(batch) ** 2).sum(), batch)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x[:, 0]), expected)
    jacobian = torch.autograd.functional.jacobian(activation, x[0])
    torch.testing.assert_close(torch.func.jacrev(activation)(x[0]), jacobian)
    torch.testing.assert_close(torch.func.jacfwd(activation)(x[0]), jacobian)


@by_activation
def test_forward_mode_is_the_transpose_of_backward(name: str) -> None:
    activation = functools.partial(ACTIVATIONS[name][0], alpha=0.1)
    x, tangent, upstream = (sample(2, 3, 4, 4, seed=seed) for seed in range(3))
    _, jvp = torch.func.jvp(activation, (x,), (tangent,))
    _, vjp = torch.func.vjp(activation, x)
    torch.testing.assert_close((jvp * upstream).sum(), (vjp(upstream)[0] * tangent).sum())


# --- compiled ---------------------------------------------------------------------------------------------------------


def check_compiled(backend: str, name: str, x: Tensor, tolerance: float) -> None:
    torch.compiler.reset()
    activation, _ = ACTIVATIONS[name]
    compiled = torch.compile(activation, fullgraph=True, backend=backend)
    results = []
    for fn in (activation, compiled):
        leaf = x.detach().requires_grad_()
        y = fn(leaf)
        y.backward(x.detach())
        assert leaf.grad is not None
        results.append((y.detach(), leaf.grad))
    for eager, other in zip(*results, strict=True):
        assert_close(other, array(eager), tolerance)
        assert other.stride() == eager.stride()


@by_activation
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiles_without_a_graph_break(name: str, channels_last: bool) -> None:
    x = sample(4, 6, 5, 7, dtype=torch.float32)
    check_compiled("aot_eager", name, x.to(memory_format=torch.channels_last) if channels_last else x, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["la_silu", "la_hardsilu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_code_agrees(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    x = sample(4, 6, 5, 7, dtype=dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    check_compiled("inductor", name, x, 4 * TOLERANCES[dtype])
