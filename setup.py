"""Builds the CPU kernels; everything else about the package is in pyproject.toml.

They are optional: without a compiler the package installs all the same and runs the plain torch definition. One plain
C file becomes one shared library for each instruction set, of which `timm_layeract.kernels.cpu` loads the right one.
"""

import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

FOLDER = Path("timm_layeract/kernels/cpu")
# No -ffast-math: NaN and infinity must travel through. -fno-gcse keeps constants in registers (a fifth of the time).
# -Wno-psabi silences notes on passing vectors between functions, which are all inlined; the other two clang's on
# -fno-gcse, which it does not know, and gcc's on what only OpenMP reads.
FLAGS = ["-std=gnu11", "-O3", "-fno-gcse", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
FLAGS += ["-Wno-ignored-optimization-argument", "-Wno-unknown-pragmas"]
# Last, so that they win: scripts/sanitize.py builds with others.
MORE_FLAGS = os.environ.get("LAYERACT_CFLAGS", "").split()
# Instruction set, as in the libraries' names -> flags.
INSTRUCTION_SETS: dict[str, list[str]] = {"default": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {
        "avx2": ["-march=x86-64-v3"],
        "avx512": ["-march=x86-64-v4"],
        "avx512_bf16": ["-march=x86-64-v4", "-mavx512bf16"],
    }


class BuildWithThreads(build_ext):
    """Builds with OpenMP, or without where the compiler has none (Apple's clang)."""

    def build_extension(self, ext: Extension) -> None:
        serial = list(ext.extra_compile_args)
        ext.extra_compile_args, ext.extra_link_args = [*serial, "-fopenmp"], ["-fopenmp"]
        try:
            super().build_extension(ext)
        except (CompileError, LinkError):
            ext.extra_compile_args, ext.extra_link_args = serial, []
            super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            f"timm_layeract.kernels.cpu.layeract_{name}",
            sources=[str(FOLDER / "layeract.c")],
            depends=[str(FOLDER / "passes.h"), str(FOLDER / "vector.h")],
            extra_compile_args=[*FLAGS, *flags, *MORE_FLAGS],
            optional=True,
        )
        for name, flags in INSTRUCTION_SETS.items()
    ],
    cmdclass={"build_ext": BuildWithThreads},
)
