"""`layeract predict` from names to files: the network says whether images get masks or classes."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ..checkpoints.save import is_smp
from ..errors import UserError
from ..models.text_rcnn import TextRCNN
from ..networks import load_network
from .files import predict_files
from .photographs import Format, classify_files, render

__all__ = ["MASKS", "gives_maps", "predict"]

MASKS = Path("masks")  # where masks go if nobody says


def predict(
    model: str,
    sources: Iterable[Path],
    output: Path | None = None,
    *,
    form: Format | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> list[str]:
    """Masks of images, or their classes, whichever the network gives.

    Args:
        model: Network by name, in the grammar of `networks.source`.
        sources: As `inputs.find_inputs`.
        output: Folder; of masks ``masks`` if None, of classes none.
        form: How classes are printed; as a table if None.
        report: Called with text for a person, or a program, to read.
        **options: Of `files.predict_files` or `photographs.classify_files`; None for what was not given.

    Returns:
        One line for each image that cannot be read.

    Raises:
        UserError: As these two; an option that the network has no use for.
    """
    given = {name: value for name, value in options.items() if value is not None}
    network = load_network(model)
    if gives_maps(network):
        _refuse(
            f"{model} gives masks", {**given, **({"format": form} if form else {})}, ("top", "batch_size", "format")
        )
        return predict_files(network, sources, output or MASKS, report=report, **given)
    _refuse(f"{model} gives classes, no masks", given, ("tile", "overlap", "threshold", "pictures"))
    predictions, failures = classify_files(network, sources, output, report=report, **given)
    report(render(predictions, form or "table").rstrip("\n"))
    return failures


def gives_maps(network: nn.Module) -> bool:
    """Whether a network gives a class for each pixel; refuses (UserError) one that takes no images."""
    if isinstance(network, TextRCNN):
        raise UserError(f"{type(network).__name__} reads texts, and there are images to predict.")
    if is_smp(network):
        return True
    with torch.inference_mode():
        made = network.eval()(torch.zeros(1, *resolve_model_data_config(network)["input_size"]))
    return isinstance(made, Tensor) and made.dim() == 4


def _refuse(why: str, given: Mapping[str, object], names: tuple[str, ...]) -> None:
    useless = [name for name in names if name in given]
    if useless:
        spelt = {"pictures": "--overlay/--no-overlay"}.get(useless[0], f"--{useless[0].replace('_', '-')}")
        raise UserError(f"{why}: leave out {spelt}.")
