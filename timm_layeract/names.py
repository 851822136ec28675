"""What the names of networks look like beside timm's own. Imports the standard library only."""

__all__ = ["SMP", "is_smp"]

SMP = "smp:"  # before the name of a network of segmentation_models_pytorch


def is_smp(name: str) -> bool:
    """Whether a name is of a network of segmentation_models_pytorch."""
    return name.startswith(SMP)
