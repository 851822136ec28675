"""Run the tests' core part on the oldest and the newest versions that are supported, and write the table of them.

`python scripts/compatibility.py` makes an environment for each set below, which is kept between runs in a cache folder
($XDG_CACHE_HOME/timm-layeract), runs the tests there, and writes docs/compatibility.md. `--here` runs them in the
environment that Python itself is in, and writes nothing.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "compatibility.md"
SHOWN = ("torch", "timm", "huggingface-hub", "segmentation-models-pytorch")
# Layers, models, swapping, fusing, saving and loading, and what says that a private name has gone. On old versions
# warnings are no errors: those of one package about another are nobody's here.
TESTS = ["definition", "layers", "swap", "checkpoints", "smp", "test_compat.py", "test_extras.py", "test_registry.py"]
OPTIONS = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
NEWEST = ["torch", "torchvision", "timm", "huggingface-hub", "segmentation-models-pytorch"]


def floors() -> list[str]:
    """The lower bounds of pyproject.toml as exact versions, but for photographs, which the core does not need."""
    text = (ROOT / "pyproject.toml").read_text()
    bounds = re.findall(r'^    "([\w-]+)>=([\d.]+)",', text, re.MULTILINE)
    return [f"{name}=={version}" for name, version in bounds if name != "imagecorruptions-imaug"]


SETS: dict[str, tuple[Sequence[str], list[str]]] = {  # -> Pythons, the first that is there is taken; requirements
    "oldest": (("3.10",), floors()),
    "newest": (("3.13", "3.12", "3.11", "3.10"), NEWEST),
}


def find_python(versions: Sequence[str]) -> str:
    """The first of these Pythons on this machine, else the one that runs this."""
    pyenv = Path.home() / ".pyenv" / "versions"
    for version in versions:
        for candidate in (*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")):
            asked = [str(candidate), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            if candidate and subprocess.run(asked, capture_output=True, text=True, check=False).stdout[:-1] == version:
                return str(candidate)
    return sys.executable


def environment(name: str) -> str:
    """Python of a set's environment, rebuilt when its requirements have changed."""
    pythons, requirements = SETS[name]
    python = find_python(pythons)
    key = hashlib.sha256("\n".join([python, *requirements, *extras()]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timm-layeract"
    folder = cache / f"{name}-{key}"
    inside = str(folder / "bin" / "python")
    if not (folder / ".ready").exists():
        for old in cache.glob(f"{name}-*"):
            shutil.rmtree(old)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        wanted = requirements if name == "oldest" else [*requirements, *extras()]
        install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "setuptools>=77"]
        subprocess.run([*install, *wanted], check=True)
        (folder / ".ready").touch()
    return inside


def extras() -> list[str]:
    """Names of what the extras that the tests need bring."""
    return [requirement.split("==")[0] for requirement in floors() if requirement.split("==")[0] not in NEWEST]


def run_tests(python: str) -> tuple[list[str], str, int]:
    """Versions that were found, pytest's last line, and its exit code."""
    code = "from importlib.metadata import version as v; import platform, sys; print(platform.python_version())\n"
    code += "for name in sys.argv[1:]: print(v(name))"
    found = subprocess.run([python, "-c", code, *SHOWN], capture_output=True, text=True, check=True).stdout.split()
    files = [str(ROOT / "tests" / name) for name in TESTS]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", *OPTIONS, *files]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout[-20_000:] if done.returncode else done.stdout[-300:], flush=True)
    return found, done.stdout.strip().splitlines()[-1], done.returncode


def counts(line: str) -> list[str]:
    """Passed, failed and skipped of pytest's last line."""
    return [(re.findall(rf"(\d+) {what}", line) or ["0"])[0] for what in ("passed", "failed", "skipped")]


def main() -> None:
    """Run the sets, and write the table unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="which of them; all if left out")
    parser.add_argument("--here", action="store_true", help="run in this environment, and write nothing")
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    if asked.here:
        sys.exit(run_tests(sys.executable)[2])
    rows, failed = [], False
    for name in asked.sets or SETS:
        python = environment(name)
        install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
        subprocess.run(install, check=True)
        versions, line, status = run_tests(python)
        rows.append(f"| {' | '.join([name, *versions, *counts(line)])} |")
        failed |= status != 0
    head = ["set", "Python", "torch", "timm", "huggingface_hub", "SMP", "passed", "failed", "skipped"]
    text = (
        "# Versions that the tests were run with\n\nWritten by `python scripts/compatibility.py`: the core part of the"
    )
    text += " tests on the oldest versions that\n`pyproject.toml` allows, and on the newest.\n\n"
    text += f"| {' | '.join(head)} |\n|{' --- |' * len(head)}\n" + "\n".join(rows) + "\n"
    if not asked.check and not asked.sets:
        TABLE.write_text(text)
    print(text)
    sys.exit(failed)


if __name__ == "__main__":
    main()
