"""Runs a function in several processes that meet over gloo. Imports torch."""

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
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    torch.save(function(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
