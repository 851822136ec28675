"""Runs a function in several processes that meet over gloo."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(function: Callable[[int], Any], processes: int) -> list[Any]:
    """What ``function(rank)`` returned in each of the processes; it must be a module's own function."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (function, processes, folder), nprocs=processes)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(processes)]


def _worker(rank: int, function: Callable[[int], Any], processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    # As torchrun sets them, for accelerate to find; it asks for an address that nobody then goes to, and takes more
    # threads where their number is not said.
    found = {
        "OMP_NUM_THREADS": 1,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 0,
    }
    os.environ.update({name: str(value) for name, value in found.items()})
    # They meet in a file: a port that was free may be taken by the time it is used.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.save(function(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
