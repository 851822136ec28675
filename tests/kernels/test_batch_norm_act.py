"""BatchNorm + residual + LayerAct in one pass against torch's modules one after the other, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distributed import run_processes
from timm_layeract import BatchNormLayerAct2d, LASiLU, LayerAct, kernels
from timm_layeract.kernels import cpu
from timm_layeract.layers.batch_norm_act import norm_act

RESIDUALS = ["none", "plain", "normalized"]
SHAPES = [(2, 3, 7, 5), (4, 17, 3, 3), (2, 1, 4, 4), (5, 33, 1, 1), (1, 5, 6, 6), (3, 2, 37, 41)]
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_norm(channels: int, seed: int, **options: Any) -> nn.BatchNorm2d:
    """A float64 BatchNorm in the middle of its life."""
    norm = nn.BatchNorm2d(channels, dtype=torch.float64, **options)
    with torch.no_grad():
        for index, tensor in enumerate([*norm.parameters(), norm.running_mean, norm.running_var]):
            if tensor is not None:
                tensor.copy_(random(channels, seed=seed + index))
        if norm.running_var is not None:
            norm.running_var.abs_().add_(0.3)
    return norm


class Site(nn.Module):
    """A BatchNorm, its activation, and what they are given."""

    def __init__(self, channels: int, residual: str, scale: str = "sigmoid", affine: bool = False, **options: Any):
        super().__init__()
        self.norm = batch_norm(channels, 1, **options)
        self.residual_norm = batch_norm(channels, 5, **options) if residual == "normalized" else None
        self.act = LayerAct(scale, 1e-3, channels if affine else None, dtype=torch.float64)
        if affine:
            nn.init.uniform_(self.act.weight, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(self.act.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return norm_act(x, self.norm, self.act, residual, self.residual_norm)


def run(site: Site, x: Tensor, residual: Tensor | None, g: Tensor) -> dict[str, Tensor]:
    """Value, gradients and what the BatchNorms remember."""
    inputs = {"x": x, "residual": residual}
    inputs = {k: v.detach().requires_grad_() for k, v in inputs.items() if v is not None} | dict(
        site.named_parameters()
    )
    y = site(inputs["x"], inputs.get("residual"))
    grads = torch.autograd.grad(y, list(inputs.values()), g.to(y.dtype).expand_as(y))
    found = {f"grad {name}": grad for name, grad in zip(inputs, grads, strict=True)}
    return {"value": y.detach(), **found, **{name: b.clone() for name, b in site.named_buffers()}}


def compare(
    site: Site, shape: tuple[int, ...], residual: str, dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format, mean: float = 1.0,
) -> None:  # fmt: skip
    """The fused call in `dtype` against the same modules in float64, which no kernel takes."""

    def lie(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).contiguous(memory_format=memory_format)

    x, r, g = (lie(random(*shape, seed=seed) * spread + mean) for seed, spread in ((11, 2.0), (12, 1.0), (13, 1.0)))
    if site.act.scale == "hardsigmoid":  # zero next to its corners, where a rounding decides the slope
        n: list[Tensor] = []
        hook = site.act.register_forward_pre_hook(lambda _, inputs: n.append(inputs[0]))
        state = {key: value.clone() for key, value in site.state_dict().items()}
        site(x.double(), None if residual == "none" else r.double())
        site.load_state_dict(state)
        hook.remove()
        z = n[0].detach()
        z = z - z.mean((1, 2, 3), keepdim=True)
        z = z / (z.square().mean((1, 2, 3), keepdim=True) + site.act.alpha).sqrt()
        if site.act.weight is not None:
            z = z * site.act.weight.view(-1, 1, 1) + site.act.bias.view(-1, 1, 1)  # type: ignore[union-attr]
        g = g * ((z.detach().abs() - 3).abs() > 0.1)
    state = {key: value.clone() for key, value in site.state_dict().items()}
    expected = run(site, x.double(), None if residual == "none" else r.double(), g.double())
    site.load_state_dict(state)
    site.float()
    actual = run(site, x, None if residual == "none" else r, lie(g))
    assert actual["value"].dtype == dtype
    assert actual["value"].stride() == x.stride() == actual["grad x"].stride()
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        error = float((actual[name].double() - wanted).abs().max())
        scale = float(wanted.abs().max())
        # A gradient that cancels out (of x, where BatchNorm sees a single value) is known to rounding of its terms.
        assert error <= TOLERANCES[dtype] * max(scale, 0.3), f"{name}: {error:.3g} of {scale:.3g}"


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_value_gradients_and_running_statistics(
    backend: str, shape: tuple[int, ...], residual: str, training: bool
) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for dtype in TOLERANCES:
            if backend == "triton" and dtype == torch.bfloat16 and memory_format == torch.contiguous_format:
                continue  # the interpreter takes seconds for what test_triton.py does with tiles of a GPU
            compare(Site(shape[1], residual).train(training), shape, residual, dtype, memory_format)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_hard_scale_and_affine_activation(backend: str, residual: str, training: bool) -> None:
    torch.manual_seed(0)
    for scale, affine in (("hardsigmoid", False), ("sigmoid", True), ("hardsigmoid", True)):
        compare(Site(6, residual, scale, affine).train(training), (3, 6, 5, 7), residual)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}, {"momentum": 0.9, "eps": 0.1}],
    ids=str,
)  # fmt: skip
def test_every_option_of_batch_norm(backend: str, residual: str, training: bool, options: dict[str, Any]) -> None:
    compare(Site(4, residual, **options).train(training), (3, 4, 5, 5), residual)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_large_mean(backend: str, training: bool) -> None:
    site = Site(4, "normalized").train(training)
    for norm in (site.norm, site.residual_norm):
        norm.running_mean.fill_(1e4 + 0.5)  # type: ignore[union-attr]
    compare(site, (4, 4, 9, 9), "normalized", mean=1e4)


@pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")
@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 40, 64, 61), (5, 33, 32, 33)], ids=str)
def test_any_number_of_threads(threads: int, shape: tuple[int, ...]) -> None:
    torch.set_num_threads(threads)
    try:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            compare(Site(shape[1], "plain"), shape, "plain", memory_format=memory_format)
    finally:
        torch.set_num_threads(1)


def test_it_is_the_fused_kernel_that_ran(backend: str) -> None:
    y = norm_act(torch.randn(2, 3, 4, 4), nn.BatchNorm2d(3), LASiLU())
    assert "FusedBatchNormLayerAct" in type(y.grad_fn).__name__


def test_constant_batch_is_finite(backend: str) -> None:
    x = torch.full((2, 3, 4, 4), 5.0, requires_grad=True)
    y = norm_act(x, nn.BatchNorm2d(3), LASiLU())
    y.sum().backward()
    assert bool(y.isfinite().all())
    assert bool(x.grad.isfinite().all())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, under the interpreter
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_nan_and_infinity_travel_as_one_after_the_other(backend: str, value: float, training: bool) -> None:
    x = random(3, 2, 5, 5, seed=1).float()
    x[1, 1, 2, 3] = value
    values = []
    for name in (backend, "composite"):
        with kernels.use_backend(name):  # type: ignore[arg-type]
            values.append(norm_act(x, nn.BatchNorm2d(2).train(training), LASiLU()))
    assert torch.equal(values[0].isfinite(), values[1].isfinite())
    assert torch.equal(values[0].isnan(), values[1].isnan())


def test_second_derivative(backend: str) -> None:
    results = []
    for name in (backend, "composite"):
        site = Site(3, "normalized", affine=True).float()
        for parameter in site.act.parameters():
            nn.init.constant_(parameter, 0.7)
        x = random(2, 3, 4, 4, seed=1).float().requires_grad_()
        with kernels.use_backend(name):  # type: ignore[arg-type]
            y = site(x, x)  # one tensor in both places
            inputs = [x, *site.parameters()]
            first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
            results.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-3, atol=2e-3)


def test_keeps_no_activation_input(backend: str) -> None:
    x, r = (random(4, 8, 16, 16, seed=seed).float().requires_grad_() for seed in (1, 2))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm_act(x, nn.BatchNorm2d(8), LASiLU(), r)
    large = [t for t in kept if t.numel() >= x.numel()]
    assert {t.data_ptr() for t in large} == {x.data_ptr(), r.data_ptr()}
    assert sum(t.numel() for t in kept) <= 2 * x.numel() + 5 * 4 * 8 + 200


def test_module_takes_the_weights_of_a_batch_norm(backend: str) -> None:
    module, plain = BatchNormLayerAct2d(6, alpha=0.1), batch_norm(6, seed=3).float()
    nn.Sequential(module).load_state_dict(nn.Sequential(plain).state_dict())
    x, r = random(2, 6, 5, 5, seed=1).float(), random(2, 6, 5, 5, seed=2).float()
    torch.testing.assert_close(module(x, r), LASiLU(0.1)(plain(x) + r))
    torch.testing.assert_close(dict(module.norm.state_dict()), dict(plain.state_dict()))
    with pytest.raises(ValueError, match="4D"):
        module(torch.ones(2, 6))
    with pytest.raises(ValueError, match="more than 1 value"):
        module(torch.ones(1, 6, 1, 1))


def test_what_cannot_be_fused_runs_one_after_the_other(backend: str) -> None:
    x = random(2, 3, 4, 4, seed=1).float()
    seen: list[Tensor] = []
    watched = nn.BatchNorm2d(3)
    watched.register_forward_hook(lambda _, __, out: seen.append(out))
    for norm, act, r in [
        (watched, LASiLU(), None),
        (nn.BatchNorm2d(3), nn.ReLU(), None),
        (nn.GroupNorm(1, 3), LASiLU(), None),
        (nn.BatchNorm2d(3), LayerAct(torch.sigmoid), None),
        (nn.BatchNorm2d(3), LASiLU(), x.double()),
        (nn.BatchNorm2d(3), LASiLU(), x[:1]),
        (nn.BatchNorm2d(3), LASiLU(), x.to(memory_format=torch.channels_last)),
    ]:
        y = norm_act(x, norm, act, r)
        assert "FusedBatchNorm" not in type(y.grad_fn).__name__
    assert len(seen) == 1


def synchronized(rank: int) -> dict[str, list[Any]]:
    """This process's half of the batch through a SyncBatchNorm and LA-SiLU."""
    x, g = random(6, 3, 5, 5, seed=1).float(), random(6, 3, 5, 5, seed=2).float()
    mine = slice(0, 2) if rank == 0 else slice(2, 6)  # unequal shares
    norm = nn.SyncBatchNorm(3)
    own = x[mine].clone().requires_grad_()
    y = norm_act(own, norm, LASiLU(), x[mine] * 2)
    y.backward(g[mine])
    tensors = {"y": y, "grad": own.grad, "weight": norm.weight.grad, "mean": norm.running_mean, "var": norm.running_var}
    return {name: tensor.tolist() for name, tensor in tensors.items()}  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")
def test_synchronized_over_two_processes_is_the_whole_batch() -> None:
    halves = run_processes(synchronized, 2)
    x, g = random(6, 3, 5, 5, seed=1).float().requires_grad_(), random(6, 3, 5, 5, seed=2).float()
    norm = nn.BatchNorm2d(3)
    with kernels.use_backend("composite"):
        y = norm_act(x, norm, LASiLU(), x.detach() * 2)
    y.backward(g)
    for name, whole in (("y", y), ("grad", x.grad)):
        together = torch.tensor(halves[0][name] + halves[1][name])
        torch.testing.assert_close(together, whole.detach(), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    weight = torch.tensor(halves[0]["weight"]) + torch.tensor(halves[1]["weight"])
    torch.testing.assert_close(weight, norm.weight.grad, rtol=1e-4, atol=1e-4)
    for half in halves:
        torch.testing.assert_close(torch.tensor(half["mean"]), norm.running_mean)
        torch.testing.assert_close(torch.tensor(half["var"]), norm.running_var)
