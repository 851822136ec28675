"""Run the CPU kernels' tests, and calls drawn at random, on a build with address and undefined-behaviour sanitizers.

A wrong access to memory, which would pass unseen or crash later, ends the process with a report of where it was. The
libraries are built in build/sanitize; the installed ones stay as they are. `make sanitize` calls this.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "sanitize"
SANITIZE = "-fsanitize=address,undefined"
TESTS = ["test_kernels.py", "test_batch_norm_act.py", "test_memory.py", "test_derivatives.py"]
# Of these the first three test nothing of the kernels in C, or take them from where they are installed.
LEFT_OUT = "not triton and not environment and not installs and not compiled and not composite"
UNDER = "LAYERACT_UNDER_SANITIZERS"


def runtime(compiler: str) -> str | None:
    """What must be loaded before Python: the sanitizer, and what it gets C++'s exceptions from; None without any."""
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        done = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        found.append(done.stdout.strip())
    return " ".join(found) if all(os.path.isabs(path) for path in found) else None


def build() -> None:
    """The libraries for all instruction sets, in `BUILD`."""
    flags = f"-O1 -g -fno-omit-frame-pointer {SANITIZE} -fno-sanitize-recover=all"
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(BUILD), "--parallel", "2"]
    with tempfile.TemporaryDirectory() as objects:
        subprocess.run(
            [*command, "--build-temp", objects],
            cwd=ROOT,
            env={**os.environ, "LAYERACT_CFLAGS": flags, "LDFLAGS": SANITIZE},
            check=True,
        )


def check(seconds: float, seed: int) -> None:
    """Run it all: this process has the sanitizer's library."""
    import pytest

    from tests.kernels import fuzz
    from timm_layeract.kernels import cpu

    cpu.FOLDER = BUILD / "timm_layeract" / "kernels" / "cpu"
    narrower = cpu.INSTRUCTION_SETS[cpu.INSTRUCTION_SETS.index(cpu._instruction_set()) :]
    libraries = {}
    widest = cpu._instruction_set
    for name in narrower:
        cpu._instruction_set = lambda name=name: name
        libraries[name] = cpu._load()
        assert str(BUILD) in libraries[name]._name, f"{name} was not built"
    cpu._instruction_set, cpu._library = widest, libraries[narrower[0]]
    tests = [str(ROOT / "tests" / "kernels" / name) for name in TESTS]
    # Modules are imported already, here.
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*quiet, "-x", "-m", "not slow", "-k", LEFT_OUT, *tests])
    if code != 0:
        sys.exit(int(code))

    def another(draw: random.Random) -> None:
        cpu._library = libraries[draw.choice(narrower)]

    # A child may inherit locks of the sanitizer that a thread held, and hang; `test_fuzz.py` forks without it.
    calls = fuzz.run(seed, seconds, another, fork=False)
    print(f"{calls} calls drawn at random (seed {seed}), on {', '.join(narrower)}: nothing found")


def main() -> None:
    """Build, and start again under the sanitizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90, help="for how long calls are drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the first call")
    options = parser.parse_args()
    if os.environ.get(UNDER):
        check(options.seconds, options.seed)
        return
    compiler = os.environ.get("CC", "gcc").split()[0]
    library = runtime(compiler)
    if library is None:
        sys.exit(f"{compiler} has no libasan.so: install gcc, and name it by CC where another compiler is the default")
    build()
    environment = {
        **os.environ,
        UNDER: "1",
        "CC": compiler,
        "LD_PRELOAD": library,
        # Python keeps what it allocates; huge sizes are refused as they are without a sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }
    sys.exit(subprocess.run([sys.executable, __file__, *sys.argv[1:]], cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
