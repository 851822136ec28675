"""The processes of a run: this one among them, and how they may share the network."""

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from ..compat.torch import accelerator as hardware
from ..errors import UserError

__all__ = ["check_distribution", "process_state"]

# A process of these holds a part of the network, or hands it to a program with checkpoints of its own.
SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")


def process_state() -> PartialState:
    """This process among those of the run; without an accelerator, several of them meet on the CPU (gloo)."""
    return PartialState(cpu=not hardware.is_available())


def check_distribution(accelerator: Accelerator) -> None:
    """Refuse (UserError) processes that hold a part of the network each: no checkpoint would be whole."""
    kind = DistributedType(accelerator.distributed_type).value
    if kind in SHARDED:
        raise UserError(
            f"{kind} shards the network over processes, which training here does not: leave it out of accelerate's "
            f"configuration, so that every process holds the whole network (DistributedDataParallel)."
        )
