"""Timing that can be compared: all contenders in one process, in turn, medians."""

import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

__all__ = ["Row", "bytes_kept", "interleave", "peak_memory", "where"]


@dataclass(frozen=True)
class Row:
    """One line of the CSV: times in milliseconds, memory in bytes."""

    level: str
    name: str
    shape: str
    dtype: str
    layout: str
    what: str
    median: float
    lower_quartile: float
    upper_quartile: float
    repetitions: int


def where() -> dict[str, Any]:
    """Device, threads and versions of this process."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    versions = {name: version(name) for name in ("torch", "timm", "timm-layeract")}
    return {"device": device, "threads": torch.get_num_threads(), **versions}


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(cases: dict[str, Callable[[], object]], repetitions: int, progress: Progress) -> dict[str, list[float]]:
    """Milliseconds of each case: twice to warm up, then one after the other, `repetitions` times."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    task = progress.add_task("", total=repetitions + 2)
    for repetition in range(repetitions + 2):
        for name, case in cases.items():
            progress.update(task, description=name)
            synchronize()
            started = time.perf_counter()
            case()
            synchronize()
            if repetition >= 2:
                times[name].append(1e3 * (time.perf_counter() - started))
        progress.advance(task)
    progress.remove_task(task)
    return times


def rows(times: dict[str, list[float]], **of: str) -> list[Row]:
    """The quartiles of each case as rows."""
    found = []
    for name, each in times.items():
        lower, median, upper = statistics.quantiles(each, n=4)
        found.append(
            Row(name=name, median=median, lower_quartile=lower, upper_quartile=upper, repetitions=len(each), **of)
        )
    return found


def bytes_kept(forward: Callable[[], object], parameters: list[torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for backward, each storage once, without the parameters."""
    known = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = forward()  # or storages would be reused and counted once
    del alive
    return sum(kept.values())


def peak_memory() -> int:
    """Highest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage begins with what the parent had
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    scale = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
