"""Run on a GPU what cannot be run without one: ``make gpu``, or ``python -m benchmarks.gpu [PART] [--seconds N]``.

Tests the Triton kernels' values there, times operations, training steps (eager, CUDA graph, compiled) and the first
step of a new process, writes results/cuda_PART.csv, and says which bars are missed. Each case is written when it is
measured; what is there already for this GPU, torch and these kernels is not measured again. A part runs in a process of
its own that ends within three minutes, and is started again while cases are left. Exit code 1: a bar is missed; 2: no
GPU.
"""

import argparse
import csv
import datetime
import hashlib
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import timm_layeract
from timm_layeract._utils.writing import write_whole

from .gpu_bars import Values, bars
from .gpu_cases import FULL, PARTS, REHEARSAL, Sizes
from .gpu_engine import engine

PARTS = {**PARTS, "engine": engine}
RESULTS = Path(__file__).parent / "results"
FIELDS = ["case", "what", "value", "device", "torch", "kernels", "date"]
MORE = 3  # exit code of a part of which cases are left


def place(sizes: Sizes) -> dict[str, str]:
    """What makes figures comparable: GPU, torch, and a digest of the kernels' source."""
    digest = hashlib.sha256()
    for path in sorted((Path(timm_layeract.__file__).parent / "kernels").rglob("*.py")):
        digest.update(path.read_bytes())
    device = torch.cuda.get_device_name() if sizes.device == "cuda" else "rehearsal"
    return {"device": device, "torch": torch.__version__, "kernels": digest.hexdigest()[:12]}


def read(part: str, at: dict[str, str], folder: Path) -> dict[tuple[str, str], float]:
    """(case, what) -> value, of this place."""
    path = folder / f"cuda_{part}.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in at.items())]
    return {(row["case"], row["what"]): float(row["value"]) for row in rows}


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    before = path.read_bytes().decode() if path.exists() else ""
    with io.StringIO(newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not before:
            writer.writeheader()
        writer.writerows(rows)
        write_whole(path, before + file.getvalue())


def run_part(part: str, sizes: Sizes, seconds: float, folder: Path) -> int:
    """Measure what is missing of a part, as long as there is time; returns an exit code."""
    started, at = time.monotonic(), place(sizes)
    done = {case for case, _ in read(part, at, folder)}
    slowest, failed = 0.0, 0
    for case, measure in PARTS[part](sizes):
        if case in done:
            continue
        began = time.monotonic()
        if began - started + slowest > seconds:
            print(f"{part}: {seconds:.0f} s are over, run again for what is left", flush=True)
            return MORE
        try:
            found = measure()
        except Exception as error:  # whatever a GPU does to one case, the others are measured
            print(f"{part}: {case}: FAILED, {type(error).__name__}: {error}", flush=True)
            failed += 1
            continue
        slowest = max(slowest, time.monotonic() - began)
        today = datetime.date.today().isoformat()
        rows = [
            {"case": case, "what": what, "value": f"{value:.6g}", **at, "date": today} for what, value in found.items()
        ]
        _append(folder / f"cuda_{part}.csv", rows)
        print(f"{part}: {case}: " + ", ".join(f"{what} {value:.4g}" for what, value in found.items()), flush=True)
    return 1 if failed else 0


def judge(sizes: Sizes, folder: Path) -> int:
    """Say which bars are missed; returns how many."""
    at = place(sizes)
    values: Values = {
        (part, case, what): value for part in PARTS for (case, what), value in read(part, at, folder).items()
    }
    missed = unknown = 0
    for name, value, most in bars(values):
        if value is None:
            unknown += 1
        elif not value <= most:  # a NaN is a miss
            missed += 1
            print(f"MISSED  {value:.4g} above {most:g}: {name}")
    print(f"{missed} bars missed, {unknown} not measured; on {at['device']}, torch {at['torch']}")
    return missed


def main(arguments: list[str] | None = None, folder: Path = RESULTS) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="one part, in this process; all if left out")
    parser.add_argument("--seconds", type=float, default=160, help="after which a part ends, to be resumed")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, kernels interpreted")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("There is no GPU that torch can use here: run `make gpu` on a machine with one.", file=sys.stderr)
        return 2
    sizes = REHEARSAL if options.rehearse else FULL
    if options.part:
        return run_part(options.part, sizes, options.seconds, folder)
    failed = False
    for part in PARTS:
        code = MORE
        while code == MORE:
            command = [sys.executable, "-m", "benchmarks.gpu", part, "--seconds", str(options.seconds)]
            code = subprocess.run([*command, *(["--rehearse"] if options.rehearse else [])]).returncode
        failed |= code != 0
    return 1 if judge(sizes, folder) or failed else 0


if __name__ == "__main__":
    sys.exit(main())
