"""The processes of a run: this one among them, and how they may share the network."""

from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from ..compat.torch import accelerator as hardware
from ..errors import UserError

__all__ = ["check_distribution", "create_accelerator", "process_state"]

# A process of these holds a part of the network, or hands it to a program with checkpoints of its own.
SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def process_state() -> PartialState:
    """State of this process among those of the run; without an accelerator they communicate on the CPU (gloo)."""
    return PartialState(cpu=not hardware.is_available())


def create_accelerator(mixed_precision: str, output: Path, trackers: tuple[str, ...] = ()) -> Accelerator:
    """What the processes of a run share.

    Args:
        mixed_precision: As for `Recipe`.
        output: Folder of the run.
        trackers: Names of accelerate's trackers.

    Raises:
        UserError: fp16 without a GPU; as `check_distribution`.
    """
    AcceleratorState._reset_state()  # a second run in one process may ask for another precision
    on_cpu = process_state().device.type == "cpu"
    if mixed_precision == "fp16" and on_cpu:
        raise UserError("mixed_precision 'fp16' needs a GPU; give 'bf16' or 'no'.")
    accelerator = Accelerator(
        cpu=on_cpu, mixed_precision=mixed_precision, log_with=list(trackers) or None, project_dir=output
    )
    check_distribution(accelerator)
    return accelerator


def check_distribution(accelerator: Accelerator) -> None:
    """Refuse (UserError) sharding of the network over processes: no checkpoint would be complete."""
    kind = DistributedType(accelerator.distributed_type).value
    if kind in SHARDED:
        raise UserError(
            f"{kind} shards the network over processes, which training here does not: leave it out of accelerate's "
            f"configuration, so that every process holds the whole network (DistributedDataParallel)."
        )
