"""What makes a run this one and no other: what its folder is known by, and its result begins with."""

from collections.abc import Mapping

import torch

from .._utils.records import check_record
from .._utils.timm_types import config_of
from ..checkpoints.fingerprint import activation_fingerprint
from ..checkpoints.records import Identity
from ..data.splits import Split
from .processes import process_state
from .recipe import Recipe
from .tasks import TASKS

__all__ = ["identify"]


def identify(
    model: torch.nn.Module,
    recipe: Recipe,
    splits: Mapping[str, Split],
    data_name: str,
    started_from: str | None,
) -> Identity:
    """What makes a run this one and no other: run.json, and the head of result.json.

    Args:
        model: Network with a `pretrained_cfg`.
        recipe: What is done.
        splits: ``"train"``, the held-out images included, and perhaps ``"validation"`` and ``"test"``.
        data_name: What the data is called in results.
        started_from: Names the weights that the model came with.
    """
    train, validation, test = splits["train"], splits.get("validation"), splits.get("test")
    held = 0 if validation else round(len(train) * recipe.validation_fraction)
    identity = {
        "model": config_of(model)["architecture"],
        "activations": activation_fingerprint(model),
        "started_from": started_from,
        "recipe": recipe.to_dict(),
        "monitor": TASKS[recipe.task].monitor,
        "processes": process_state().num_processes,
        "data": {
            "name": data_name,
            "train_images": len(train) - held,
            "validation_images": len(validation) if validation else held,
            "test_images": len(test) if test else 0,
            "train_sha256": train.sha256(),
            "test_sha256": test.sha256() if test else None,
            **({"validation_sha256": validation.sha256()} if validation else {}),
        },
    }
    return check_record(Identity, identity, "run.json")
