"""What the names of networks look like beside timm's own."""

from pathlib import Path
from typing import Final

__all__ = ["CLASS_KEY", "LABELS_KEY", "NAME_KEY", "NOTES_KEY", "SMP", "dataset_name"]

SMP = "smp:"  # before the name of a network of segmentation_models_pytorch
# In the config.json of such a network, and no arguments of it.
CLASS_KEY: Final = "_model_class"  # which of SMP's classes it is
NAME_KEY: Final = "_name"  # what it was published as
LABELS_KEY: Final = "_label_names"  # of its classes
NOTES_KEY: Final = "_notes"  # as for timm's config


def dataset_name(data: str) -> str:
    """What results call a data set, a folder or ``OWNER/NAME``: its last part."""
    return Path(data).name or Path(data).resolve().name
