"""Whether data and network fit: classes by name and order, between splits too, and channels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._utils.timm_types import config_of
from ..errors import UserError

__all__ = ["check_channels", "check_classes", "label_names", "map_classes"]


def map_classes(
    labels: Tensor, classes: tuple[str, ...], known: Sequence[str], source: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of a split in the order of the classes that are known from elsewhere.

    Args:
        labels: int64 ``(N,)``, indices into `classes`.
        classes: Names of the split's classes.
        known: Names in the order that the labels are to follow; none for no other order.
        source: Named in errors.

    Raises:
        UserError: A label of a class that is not known.
    """
    if not known or tuple(known) == classes:
        return labels, classes
    places = torch.tensor([known.index(name) if name in known else -1 for name in classes], dtype=torch.int64)
    mapped = places[labels]
    if len(mapped) and int(mapped.min()) < 0:
        unknown = classes[int(labels[mapped < 0][0])]
        raise UserError(f"{source} has the class {unknown!r}, which is none of {_shown(known)}.")
    return mapped, tuple(known)


def label_names(network: nn.Module) -> tuple[str, ...]:
    """Class names in a network's configuration, none where it has none."""
    config = config_of(network)
    return tuple(config.get("label_names") or ())


def check_classes(
    classes: Sequence[str],
    network: nn.Module,
    valid_labels: Sequence[int] = (),
    way_out: str = "",
    named: bool = True,
) -> None:
    """Refuse data whose classes are not those of the network, in number or, where it names them, in name and order.

    Args:
        classes: Class names of the data, in the order of its labels.
        network: Classifier.
        valid_labels: Outputs that are the data's classes, in their order; all if empty.
        way_out: What the user can do, the end of the message.
        named: Whether the names that the network has are those of its weights.

    Raises:
        UserError: Names the first class that differs.
    """
    outputs: Any = getattr(network, "num_classes", None)
    if not outputs:
        return  # a network of the user's own does not say; its outputs are counted when it runs
    wrong = [label for label in valid_labels if not 0 <= label < outputs]
    if wrong:
        raise UserError(f"valid_labels holds {wrong[0]}; the network has the outputs 0 to {outputs - 1}.")
    chosen = list(valid_labels) or list(range(outputs))
    end = f": {way_out}." if way_out else "."
    if len(chosen) != len(classes):
        raise UserError(f"The data has {len(classes)} classes, the network {len(chosen)}{end}")
    names = label_names(network) if named else ()
    if len(names) != outputs:
        return
    for index, (output, name) in enumerate(zip(chosen, classes, strict=True)):
        if names[output] != name:
            raise UserError(f"Class {index} is {name!r} in the data and {names[output]!r} in the network{end}")


def check_channels(network: nn.Module) -> None:
    """Refuse (UserError) a network that takes neither colour nor grey images."""
    channels = getattr(network, "in_chans", 3)
    if channels not in (1, 3):
        raise UserError(
            f"The network takes images of {channels} channels; image files have 3, which can become 1 and no others."
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
