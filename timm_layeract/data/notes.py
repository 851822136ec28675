"""What a trained network's config notes of the images that it was trained on, for whoever uses it.

Notes are sentences in timm's config, as it has no fields for them; SMP's networks keep them in their own config.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from .._utils.names import NOTES_KEY
from .._utils.timm_types import PretrainedConfig, config_of
from ..checkpoints.save import is_smp

__all__ = ["read_note", "write_note"]


def write_note(network: nn.Module, sentence: str, values: Iterable[float] | None) -> None:
    """Note numbers, or that there is nothing to note.

    Args:
        network: timm's or SMP's; its config is replaced.
        sentence: With ``{}`` for each number; a note of the same sentence goes.
        values: The numbers; None leaves the sentence out.
    """
    config: PretrainedConfig = {**config_of(network)}
    notes = [note for note in config.pop("notes", None) or () if not _pattern(sentence).fullmatch(note)]
    if values is not None:
        notes.append(sentence.format(*map(repr, values)))
    network.pretrained_cfg = {**config, **({"notes": tuple(notes)} if notes else {})}  # type: ignore[assignment]
    if is_smp(network):
        arguments: Any = network._hub_mixin_config
        arguments.pop(NOTES_KEY, None)
        arguments.update({NOTES_KEY: notes} if notes else {})


def read_note(network: nn.Module, sentence: str) -> tuple[float, ...] | None:
    """The numbers that a network's config notes by this sentence; None where it does not."""
    for note in config_of(network).get("notes") or ():
        if match := _pattern(sentence).fullmatch(note):
            return tuple(map(float, match.groups()))
    return None


def _pattern(sentence: str) -> re.Pattern[str]:
    return re.compile(sentence.replace("{}", r"(\S+)"))
