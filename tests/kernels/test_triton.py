"""The Triton kernels beyond what every backend is tested for: cost of a call, float16, real tiles, compiled programs.

Values of real tiles come from Triton's interpreter, registers and loads from compiling for GPUs that are not there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from timm_layeract import LAHardSiLU, LASiLU, LayerAct, kernels
from timm_layeract.definition import composite
from timm_layeract.kernels import dispatch
from timm_layeract.kernels.triton import launch, layer_act, shapes, whole
from timm_layeract.kernels.triton import norm_act as calls
from timm_layeract.layers.batch_norm_act import norm_act

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# No kernel starts for these: they allocate, or look at memory in another way.
FREE = {"empty", "empty_like", "view", "detach", "slice", "select", "alias"}


class Operations(TorchDispatchMode):
    """Counts what torch itself runs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def costly(self) -> list[str]:
        return [name for name in self.names if name not in FREE]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that start, in place of starting them."""
    started: list[str] = []
    for module in (launch, layer_act, calls):
        monkeypatch.setattr(module, "launch", lambda which, *_: started.append(which))
    monkeypatch.setattr(dispatch, "watched", lambda: False)  # the mode that counts is to see the kernels' operations
    return started


def tensors(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, offset: float = 0.0, seed: int = 0
) -> list[Tensor]:
    """x, a residual and an upstream gradient."""
    random = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=random) * 2 + offset, torch.randn(shape, generator=random) + offset]
    found.append(torch.randn(shape, generator=random))
    return [t.to(dtype).contiguous(memory_format=LAYOUTS[layout]) for t in found]


# --- what a call costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 8, 5, 5), (3, 64, 40, 40)], ids=["in registers", "in splits"])
def test_layer_act_takes_one_launch_and_one_operation_each_way(
    launches: list[str], shape: tuple[int, ...], layout: str
) -> None:
    x, _, g = tensors(shape, torch.float32, layout)
    x.requires_grad_()
    with kernels.use_backend("triton"), Operations() as operations:
        y = LASiLU()(x)
        assert len(launches) == 1
        torch.autograd.grad(y, x, g)
    assert len(launches) == 2
    assert len(operations.costly) <= 2, operations.costly


@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
@pytest.mark.parametrize("residual", ["none", "plain", "normalized"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_batch_norm_and_layer_act_take_two_launches_each_way(
    launches: list[str], residual: str, training: bool, affine: bool
) -> None:
    x, r, g = tensors((3, 8, 5, 5), torch.float32, "channels_last")
    norm, r_norm = nn.BatchNorm2d(8).train(training), nn.BatchNorm2d(8).train(training)
    inputs = [t.requires_grad_() for t in (x, r)][: 1 if residual == "none" else 2]
    act = LayerAct(num_channels=8 if affine else None)
    with kernels.use_backend("triton"), Operations() as operations:
        y = norm_act(x, norm, act, None if residual == "none" else r, r_norm if residual == "normalized" else None)
        assert launches == ["stats", "value"]
        torch.autograd.grad(y, [*inputs, norm.weight, norm.bias], g)
    assert launches == ["stats", "value", "sums", "gradient"]
    # A zeroed buffer each way, and in training the batches that each BatchNorm counts.
    assert len(operations.costly) <= 5, operations.costly


def test_affine_layer_act_takes_two_launches_each_way(launches: list[str]) -> None:
    x, _, g = tensors((3, 8, 5, 5), torch.float32, "contiguous")
    act = LayerAct(num_channels=8)
    with kernels.use_backend("triton"), Operations() as operations:
        torch.autograd.grad(act(x.requires_grad_()), [x, *act.parameters()], g)
    assert launches == ["stats", "value", "sums", "gradient"]
    assert len(operations.costly) <= 4, operations.costly


# --- values -----------------------------------------------------------------------------------------------------------

TOLERANCES = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize(
    ("dtype", "offset"), [(torch.float32, 0.0), (torch.float32, 100.0), (torch.float16, 100.0), (torch.bfloat16, 100.0)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_with_the_tiles_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, layout: str, dtype: torch.dtype, offset: float
) -> None:
    monkeypatch.setattr(shapes, "PROGRAMS", 8)  # which take turns
    shapes._tiles.cache_clear()
    for shape, act in (((2, 16, 12, 12), LASiLU(1e-3)), ((2, 24, 13, 9), LAHardSiLU(1e-3))):
        x, r, g = tensors(shape, dtype, layout, offset)
        norm = nn.BatchNorm2d(shape[1])
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        exact = [t.double().requires_grad_() for t in (x, r, norm.weight, norm.bias)]
        z = torch.nn.functional.batch_norm(exact[0], None, None, exact[2], exact[3], True, 0.0, norm.eps) + exact[1]
        n = composite.layer_normalize(z, act.alpha).detach()
        g = g * ((n.abs() - 3).abs() > 0.1).to(dtype)  # zero next to the corners of hardsigmoid
        expected = act(z)
        wanted = [expected, *torch.autograd.grad(expected, exact, g.double())]
        inputs = [x.requires_grad_(), r.requires_grad_(), norm.weight, norm.bias]
        with kernels.use_backend("triton"):
            y = norm_act(x, norm, act, r)
            found = [y, *torch.autograd.grad(y, inputs, g)]
        assert y.dtype == dtype
        assert y.stride() == found[1].stride() == x.stride()
        for each, right in zip(found, wanted, strict=True):
            assert error(each, right) <= 4 * TOLERANCES[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 8, 32, 32), (35, 3, 4, 3)], ids=["over positions", "over samples"])
def test_means_that_drift_together(shape: tuple[int, ...], layout: str) -> None:
    """Every tile of rows that is put together with those before has another mean, of x as of the residual."""
    x, r, g = tensors(shape, torch.float32, layout)
    drift = torch.linspace(-40, 60, x.numel()).view(shape)
    x, r = x + drift, r - 2 * drift + 1e3
    norm, r_norm = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    exact = [t.double().requires_grad_() for t in (x, r, norm.weight)]
    z = torch.nn.functional.batch_norm(exact[0], None, None, exact[2], None, True, 0.0, norm.eps)
    z = z + torch.nn.functional.batch_norm(exact[1], None, None, None, None, True, 0.0, norm.eps)
    expected = composite.la_silu(z, 1e-3)
    wanted = [expected, *torch.autograd.grad(expected, exact, g.double())]
    inputs = [x.requires_grad_(), r.requires_grad_(), norm.weight]
    with kernels.use_backend("triton"):
        y = norm_act(x, norm, LASiLU(1e-3), r, r_norm)
        found = [y, *torch.autograd.grad(y, inputs, g)]
    for each, right in zip(found, wanted, strict=True):
        assert error(each, right) <= 2e-5
    unbiased = exact[0].detach().transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * unbiased, rtol=1e-6, atol=0)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", [(3, 7), (5, 3, 40, 23), (4, 24, 30, 30)], ids=str)
def test_layer_act_alone_in_registers_and_in_splits(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for offset in (0.0, 100.0):
        x, _, g = tensors(shape, dtype, "contiguous", offset)
        exact = x.double().requires_grad_()
        expected = composite.la_silu(exact)
        wanted = torch.autograd.grad(expected, exact, g.double())[0]
        with kernels.use_backend("triton"):
            y = LASiLU()(x.requires_grad_())
            found = torch.autograd.grad(y, x, g)[0]
        assert error(y, expected) <= TOLERANCES[dtype]
        assert error(found, wanted) <= 4 * TOLERANCES[dtype]


def test_samples_whose_elements_do_not_fit_into_32_bits_have_no_kernel() -> None:
    with kernels.use_backend("triton"):
        assert kernels.backend_for(torch.empty(2, 2**20)) == "triton"
        huge = torch.empty(1, 2**31, dtype=torch.bfloat16)  # asked for, never touched
        assert kernels.backend_for(huge) == "composite"


def test_results_repeat_bit_for_bit() -> None:
    def once() -> list[Tensor]:
        x, r, g = tensors((3, 8, 9, 9), torch.float32, "channels_last")
        norm = nn.BatchNorm2d(8)
        y = norm_act(x.requires_grad_(), norm, LASiLU(), r)
        return [y, *torch.autograd.grad(y, [x, norm.weight, norm.bias], g), norm.running_mean, norm.running_var]  # type: ignore[list-item]

    with kernels.use_backend("triton"):
        assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


@triton.jit
def turns(out, samples, splits, lag):
    n, split, due = whole._turn(tl.program_id(0), samples, splits, lag)
    tl.store(out + 3 * tl.program_id(0), n)
    tl.store(out + 3 * tl.program_id(0) + 1, split)
    tl.store(out + 3 * tl.program_id(0) + 2, due.to(tl.int32))


@pytest.mark.parametrize(("samples", "lag"), [(1, 1), (5, 1), (5, 2), (5, 4), (5, 5)])
def test_every_split_has_its_turn_after_its_sample_s_sums(samples: int, lag: int) -> None:
    splits, done, seen = 3, set(), []
    out = torch.zeros(2 * samples * splits, 3, dtype=torch.int32)
    turns[(len(out),)](out, samples, splits, lag)
    for n, split, due in out.tolist():
        if due:
            done.add((n, split))
        else:
            assert all((n, each) in done for each in range(splits))
            seen.append((n, split))
    assert sorted(seen) == sorted(done) == [(n, split) for n in range(samples) for split in range(splits)]


# --- compiled for GPUs that are not there -----------------------------------------------------------------------------


@pytest.mark.slow
def test_programs_compile_without_spills_and_with_wide_loads(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.triton_compile"],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Over shapes of all sizes, with a residual as with two BatchNorms: in channels_last one program a pass.
    for lying, kinds in found["counts"].items():
        tiles = 1 if lying.startswith("channels_last") else 2
        assert kinds == {"act": 2, "norm": 4 * tiles, "residual": 4 * tiles}, lying
    for program in found["programs"]:
        assert program["spilled"] == 0, program
        assert program["registers"] <= 168, program
        assert program["shared"] <= 4096, program
        wide = {".v4.b32", ".v4.f32"}
        assert wide & set(program["ld"]), program
        if program["program"] not in ("stats", "sums"):
            assert wide & set(program["st"]), program
