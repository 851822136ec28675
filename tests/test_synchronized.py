"""Statistics taken over two processes are those of one: normalized activations on unequal shares of the batches."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from timm_layeract import NormalizedAct

from .distributed import run_processes

SIZES = (5, 0, 11)  # of the first process: one of its batches is empty


def batches() -> list[Tensor]:
    """Three batches of 16 rows."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 5, generator=generator) * (1 + i) + 0.5 * i for i in range(3)]


def normalized(shares: list[Tensor]) -> dict[str, Any]:
    """What a normalized activation did and kept, after forward and backward."""
    module = NormalizedAct(nn.SiLU)
    outputs = [module(share) for share in shares]
    torch.cat(outputs).sum().backward()
    return {"outputs": [y.detach() for y in outputs], "state": module.state_dict(), "grad": module.alpha.grad}


def share(rank: int) -> dict[str, Any]:
    """One process's part."""
    shares = [batch[:size] if rank == 0 else batch[size:] for batch, size in zip(batches(), SIZES, strict=True)]
    return {"normalized": normalized(shares)}


@pytest.mark.slow
def test_two_processes_equal_one() -> None:
    first, second = run_processes(share, 2)
    whole = normalized(batches())
    one, other = first["normalized"], second["normalized"]
    torch.testing.assert_close(one["state"], whole["state"], check_device=False)
    torch.testing.assert_close(other["state"], one["state"], rtol=0, atol=0)
    torch.testing.assert_close(one["grad"] + other["grad"], whole["grad"], rtol=1e-4, atol=1e-4)
    for mine, theirs, together in zip(one["outputs"], other["outputs"], whole["outputs"], strict=True):
        torch.testing.assert_close(torch.cat([mine, theirs]), together, rtol=1e-5, atol=1e-5)
