"""Check that an installed package has a C library for each instruction set: what a wheel is tested by."""

import importlib.machinery
import platform
from pathlib import Path

import timm_layeract
from timm_layeract.kernels import cpu

folder = Path(timm_layeract.__file__).parent / "kernels" / "cpu"
wanted = cpu.INSTRUCTION_SETS if platform.machine().lower() in ("x86_64", "amd64") else ["default"]
missing = [
    name
    for name in wanted
    if not any((folder / f"layeract_{name}{end}").is_file() for end in importlib.machinery.EXTENSION_SUFFIXES)
]
if missing or not cpu.available():
    raise SystemExit(f"{folder} has no library for {', '.join(missing) or 'this machine'}.")
print(f"libraries: {', '.join(wanted)}")
