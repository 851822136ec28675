"""Runs a function in several processes that meet over gloo. Imports torch."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(function: Callable[[int], Any], processes: int) -> list[Any]:
    """What ``function(rank)`` returned in each of the processes; it must be a module's own function."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mp.spawn(_worker, (function, processes, folder, port), nprocs=processes)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(processes)]


def _worker(rank: int, function: Callable[[int], Any], processes: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    # As torchrun sets them, for accelerate to find.
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}})
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    torch.save(function(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
