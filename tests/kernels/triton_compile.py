"""Compiles the Triton programs for GPUs that are not there; prints what became of each, as JSON.

``python -m tests.kernels.triton_compile``, in a process without the interpreter. What is compiled is what calls of the
package ask for: their launches are recorded instead of made.
"""

import json
import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from timm_layeract.kernels import triton as kernels
from timm_layeract.kernels.batch_norm import BatchNorm, fused_batch_norm_layer_act
from timm_layeract.kernels.layer_act import fused_layer_act
from timm_layeract.kernels.triton import launch, layer_act, norm_act, programs

KINDS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int32: "*i32"}
KINDS |= {torch.float64: "*fp64"}
# Sites of ResNets, and an LA-SiLU by itself: sizes differ, programs should not.
SHAPES = [(2, 64, 56, 56), (2, 128, 28, 28), (2, 256, 56, 56), (2, 2048, 8, 8)]
Variant = tuple[str, tuple[str, ...], tuple[Any, ...], int]


def variant(which: str, arguments: tuple[Any, ...], warps: int) -> Variant:
    """What a launch is compiled for: kinds of its arguments, and values of those that are no arguments on the GPU."""
    kinds, constants = [], []
    for parameter, value in zip(getattr(programs, which).params, arguments, strict=True):
        if parameter.is_constexpr:
            constants.append(value)
            kinds.append("constexpr")
        elif isinstance(value, Tensor):
            kinds.append(KINDS[value.dtype])
        else:
            assert parameter.do_not_specialize, f"{which} would be compiled for each {parameter.name}"
            kinds.append("fp32" if isinstance(value, float) else "i32")
    return which, tuple(kinds), tuple(constants), warps


def batch_norm(channels: int) -> BatchNorm:
    """A BatchNorm in training."""
    weight, bias = (torch.zeros(channels, requires_grad=True) for _ in range(2))
    return BatchNorm(weight, bias, torch.zeros(channels), torch.zeros(channels), True, 0.1, 1e-5)


def recorded(dtype: torch.dtype, layout: torch.memory_format) -> dict[str, set[Variant]]:
    """The variants that each kind of call takes, over all `SHAPES`."""
    found: dict[str, set[Variant]] = {}
    kind = ""

    def record(which: str, x: Tensor, number: int, warps: int, *arguments: Any) -> None:
        found.setdefault(kind, set()).add(variant(which, arguments, warps))

    for module in (launch, layer_act, norm_act):
        module.launch = record  # type: ignore[attr-defined]
    for shape in SHAPES:
        x, r = (torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_() for _ in range(2))
        own, other = batch_norm(shape[1]), batch_norm(shape[1])
        kind = "norm"
        call(x, own)
        kind = "residual"  # the same programs with a BatchNorm of its own
        call(x, own, residual=r)
        call(x, own, residual=r, residual_norm=other)
        kind = "act"
        fused_layer_act(kernels, x, "sigmoid", 1e-5).backward(torch.zeros_like(x))
    return found


def call(x: Tensor, norm: BatchNorm, **residual: Any) -> None:
    """BatchNorm and LA-SiLU, forward and backward."""
    fused_batch_norm_layer_act(kernels, x, norm, "sigmoid", 1e-5, **residual).backward(torch.zeros_like(x))


def compiled(variant: Variant, sm: int) -> dict[str, Any]:
    """Registers, spills, shared memory, and how wide loads and stores are."""
    which, kinds, constants, warps = variant
    program = getattr(programs, which)
    values = iter(constants)
    constant = {(i,): next(values) for i, kind in enumerate(kinds) if kind == "constexpr"}
    # The allocator's tensors begin at multiples of 16 bytes, as the launcher finds out.
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds) if kind.startswith("*")}
    source = ASTSource(program, dict(zip(program.arg_names, kinds, strict=True)), constant, aligned)
    kernel = triton.compile(source, target=GPUTarget("cuda", sm, 32), options={"num_warps": warps})
    ptx = kernel.asm["ptx"]
    accesses = {name: re.findall(rf"\b{name}\.global(\.[\w.:]+)", ptx) for name in ("ld", "st")}
    given = dict(zip([p.name for p in program.params if p.is_constexpr], constants, strict=True))
    return {"program": which, "tensors": kinds[0], **given, "sm": sm, **resources(ptx, sm), **accesses,
            "shared": kernel.metadata.shared}  # fmt: skip


def resources(ptx: str, sm: int) -> dict[str, int]:
    """What the assembler says of registers and of bytes that it spilled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.ptx")
        path.write_text(ptx)
        assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
        target = re.search(r"\.target (\w+)", ptx)[1]  # type: ignore[index]
        command = [assembler, "-v", f"--gpu-name={target}", path, "-o", path.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = {"registers": r"Used (\d+) registers", "spilled": r"(\d+) bytes spill stores"}
    return {name: int(re.search(pattern, said)[1]) for name, pattern in found.items()}  # type: ignore[index]


def main() -> None:
    """Record, compile each variant, print; for the older GPU what is trained with."""
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    counts: dict[str, dict[str, int]] = {}
    programs = []
    for (name, layout), dtype in product(layouts.items(), (torch.bfloat16, torch.float32)):
        found = recorded(dtype, layout)
        counts[f"{name} {KINDS[dtype]}"] = {kind: len(each) for kind, each in found.items()}
        both = sorted(found["residual"] | found["act"], key=str)
        if (name, dtype) == ("channels_last", torch.bfloat16):
            programs += [compiled(each, 90) for each in sorted(set().union(*found.values()), key=str)]
            programs += [compiled(each, 80) for each in both]
        elif name == "channels_last" or dtype == torch.bfloat16:
            programs += [compiled(each, 90) for each in both]
    print(json.dumps({"counts": counts, "programs": programs}))


if __name__ == "__main__":
    main()
