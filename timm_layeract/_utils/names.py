"""What the names of networks look like beside timm's own."""

__all__ = ["CLASS_KEY", "NAME_KEY", "SMP", "is_smp"]

SMP = "smp:"  # before the name of a network of segmentation_models_pytorch
# In the config.json of such a network, and no arguments of it.
CLASS_KEY = "_model_class"  # which of SMP's classes it is
NAME_KEY = "_name"  # what it was published as


def is_smp(name: str) -> bool:
    """Whether a name is of a network of segmentation_models_pytorch."""
    return name.startswith(SMP)
