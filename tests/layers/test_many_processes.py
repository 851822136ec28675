"""Networks of ours among two processes: sharded, with uneven inputs, and where one process runs alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import fsdp
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import timm_layeract  # noqa: F401
from tests.distributed import run_processes

if not hasattr(fsdp, "fully_shard"):
    pytest.skip("FSDP2 is public since torch 2.6", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("sharded")  # one worker, which starts the processes once

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fused": partial(timm.create_model, "resnet20_lasilu"),
    "normalized": partial(timm.create_model, "resnet20_nrelu"),
    "switchnorm": partial(timm.create_model, "resnet20_nrelu", norm_layer="switchnorm"),
    "decorrelated": partial(timm.create_model, "resnet20_lasilu", norm_layer="dbn"),
}


def network(name: str) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(0)
    return NETWORKS[name]().train()


def images(rank: int, batch: int = 0) -> Tensor:
    """A batch of one process; sides that are no multiples of anything."""
    return torch.randn(3, 3, 19, 17, generator=torch.Generator().manual_seed(10 * rank + batch))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Whole gradients by name, wherever they are kept."""
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in found.items()}


def averaged(name: str, rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and mean gradients of the network as it is: each process its own images, then the mean by hand."""
    plain = network(name)
    logits = plain(images(rank))
    logits.square().mean().backward()
    grads = gradients(plain)
    for grad in grads.values():
        dist.all_reduce(grad)
        grad /= 2
    return logits.detach(), grads


def shard(module: nn.Module, **policy: Any) -> nn.Module:
    """By FSDP2, block by block."""
    mesh = init_device_mesh("cpu", (2,))
    for stage in (module.layer1, module.layer2, module.layer3):
        for block in stage:
            fsdp.fully_shard(block, mesh=mesh, **policy)
    return fsdp.fully_shard(module, mesh=mesh, **policy)


def step(module: nn.Module, rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    logits = module(images(rank))
    logits.float().square().mean().backward()
    return logits.detach(), gradients(module)


def errors(found: tuple[Tensor, dict[str, Tensor]], right: tuple[Tensor, dict[str, Tensor]]) -> list[float]:
    """Of the logits and of all gradients together, relative."""
    one, other = (torch.cat([each[1][name].flatten().float() for name in right[1]]) for each in (found, right))
    logits, like = found[0].float(), right[0]
    return [float((logits - like).norm() / like.norm()), float((one - other).norm() / other.norm())]


def sharded(rank: int) -> dict[str, Any]:
    half = {"mp_policy": fsdp.MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)}
    found = {}
    for name in NETWORKS:
        right = averaged(name, rank)
        found[name] = errors(step(shard(network(name)), rank), right)
        if name != "normalized":  # torch's BatchNorm takes no bfloat16 weights beside float32 statistics
            found[name, "bfloat16"] = errors(step(shard(network(name), **half), rank), right)
        whole = fsdp.FullyShardedDataParallel(network(name), use_orig_params=True, device_id=torch.device("cpu"))
        logits = whole(images(rank))
        logits.square().mean().backward()
        with fsdp.FullyShardedDataParallel.summon_full_params(whole, with_grads=True):
            grads = {n.removeprefix("_fsdp_wrapped_module."): p.grad.clone() for n, p in whole.named_parameters()}
        found[name, "FSDP1"] = errors((logits.detach(), grads), right)
    return found


def uneven(rank: int) -> dict[str, Any]:
    """Two batches here, four there; a training forward of the first process alone before."""
    found = {}
    for name in NETWORKS:
        if rank == 0:
            network(name)(images(0))
        module = DistributedDataParallel(network(name))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        with Join([module]):
            for batch in range(2 + 2 * rank):
                optimizer.zero_grad()
                module(images(rank, batch)).square().mean().backward()
                optimizer.step()
        found[name] = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return found


def both(rank: int) -> dict[str, Any]:
    """One start of the processes for both tests."""
    return {"sharded": sharded(rank), "uneven": uneven(rank)}


@pytest.fixture(scope="module")
def processes() -> list[dict[str, Any]]:
    """What two processes found."""
    return run_processes(both, 2)


@pytest.mark.slow
def test_sharded_networks_equal_whole_ones(processes: list[dict[str, Any]]) -> None:
    for process in processes:
        for case, found in process["sharded"].items():
            assert max(found) < (0.1 if "bfloat16" in case else 1e-6), case


@pytest.mark.slow
def test_a_process_may_run_alone_or_out_of_data(processes: list[dict[str, Any]]) -> None:
    """Nobody waits for ever, and the processes end with the same weights."""
    one, other = (process["uneven"] for process in processes)
    for name in NETWORKS:
        assert torch.equal(one[name], other[name])
        start = torch.cat([parameter.detach().flatten() for parameter in network(name).parameters()])
        assert 1e-3 < float((one[name] - start).norm()) < 1e3
