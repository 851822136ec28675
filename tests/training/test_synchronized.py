"""Statistics taken over two processes are those of one: normalized activations and norms on unequal shares."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distributed import run_processes
from timm_layeract import DecorrelatedBatchNorm2d, IEBN2d, NormalizedAct, SwitchNorm2d, synchronize_statistics

SIZES = (5, 0, 11)  # of the first process: one of its batches is empty


def batches() -> list[Tensor]:
    """Three batches of 16 rows."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 5, generator=generator) * (1 + i) + 0.5 * i for i in range(3)]


def normalized(shares: list[Tensor]) -> dict[str, Any]:
    """What a normalized activation did and kept, after forward and backward."""
    module = synchronize_statistics(NormalizedAct(nn.SiLU))
    outputs = [module(share) for share in shares]
    torch.cat(outputs).sum().backward()
    return {"outputs": [y.detach() for y in outputs], "state": module.state_dict(), "grad": module.alpha.grad}


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "switchnorm": SwitchNorm2d,
    "iebn": IEBN2d,
    "dbn": DecorrelatedBatchNorm2d,
}


def normed(name: str, own: slice) -> dict[str, Any]:
    """What a norm did to its images of the six, and kept, after forward and backward."""
    generator = torch.Generator().manual_seed(1)
    x, upstream = torch.randn(2, 6, 4, 5, 5, generator=generator)
    module, mine = (
        synchronize_statistics(NORMS[name](4)),
        (x * torch.arange(1.0, 5.0)[:, None, None])[own].requires_grad_(),
    )
    y = module(mine)
    y.backward(upstream[own])
    grads = {key: parameter.grad for key, parameter in module.named_parameters()}
    return {"y": y.detach(), "grad": mine.grad, "grads": grads, "state": module.state_dict()}


def share(rank: int) -> dict[str, Any]:
    """One process's part."""
    shares = [batch[:size] if rank == 0 else batch[size:] for batch, size in zip(batches(), SIZES, strict=True)]
    own = slice(0, 2) if rank == 0 else slice(2, 6)
    return {"normalized": normalized(shares), **{name: normed(name, own) for name in NORMS}}


@pytest.mark.slow
def test_two_processes_equal_one() -> None:
    first, second = run_processes(share, 2)
    whole = normalized(batches())
    one, other = first["normalized"], second["normalized"]
    torch.testing.assert_close(one["state"], whole["state"])
    torch.testing.assert_close(other["state"], one["state"], rtol=0, atol=0)
    torch.testing.assert_close(one["grad"] + other["grad"], whole["grad"], rtol=1e-4, atol=1e-4)
    for mine, theirs, together in zip(one["outputs"], other["outputs"], whole["outputs"], strict=True):
        torch.testing.assert_close(torch.cat([mine, theirs]), together, rtol=1e-5, atol=1e-5)
    for name in NORMS:
        one, other, alone = first[name], second[name], normed(name, slice(0, 6))
        for key in ("y", "grad"):
            torch.testing.assert_close(torch.cat([one[key], other[key]]), alone[key], rtol=1e-4, atol=1e-4)
        for key, grad in alone["grads"].items():
            torch.testing.assert_close(one["grads"][key] + other["grads"][key], grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one["state"], alone["state"])
        torch.testing.assert_close(other["state"], one["state"], rtol=0, atol=0)
