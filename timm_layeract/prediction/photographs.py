"""Classifying image files: a network by name, images in, the likeliest classes of each out: `layeract predict`."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
from torch import Tensor, nn

from .._utils.files import csv_text
from .._utils.progress import tracked
from .._utils.writing import check_folder, write_whole
from ..compat.torch import accelerator
from ..data.brightness import recorded_brightness
from ..data.classes import check_channels, label_names
from ..data.images import large_images, read_picture
from ..data.pictures import contact_sheet, save_png
from ..errors import UserError
from ..evaluation.evaluate import preprocessing
from ..networks import load_network
from .inputs import Input, find_inputs, nothing_to

__all__ = ["Format", "Prediction", "class_names", "classify_files", "render"]

Format = Literal["table", "csv", "json"]
TABLE, SHEET = "classes.csv", "classes.png"
SHOWN_IMAGES = 120  # images on the contact sheet
SHEET_SIDE = 160  # of each there, in pixels


@dataclass(frozen=True)
class Prediction:
    """A network's prediction for an image: its likeliest classes with their probabilities."""

    image: str
    classes: tuple[tuple[str, float], ...]


def classify_files(
    network: nn.Module | str,
    sources: Iterable[Path],
    output: Path | None = None,
    *,
    top: int = 5,
    batch_size: int = 64,
    max_megapixels: float | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> tuple[list[Prediction], list[str]]:
    """Classify images as `layeract evaluate` does: resized and cropped as the network's config says.

    Args:
        network: Classifier, or its name in the grammar of `networks.source`.
        sources: As `inputs.find_inputs`.
        output: Folder for ``classes.csv`` and ``classes.png``, a contact sheet of the first images; None for none.
        top: How many classes of each image, the likeliest first.
        batch_size: Images at once.
        max_megapixels: Largest image allowed, see `images.large_images`.
        progress: Show a progress bar, where the output is a terminal.
        report: Called with lines for a person to read.

    Returns:
        What it says of each image that can be read, in their order, and a line for each that cannot, or folder of none.

    Raises:
        UserError: A source is not there, or no image can be read; the network cannot be loaded, takes no image files,
            or chooses between no classes.
    """
    if output is not None:
        check_folder(output)
    inputs, failures = find_inputs(sources)
    network = load_network(network) if isinstance(network, str) else network
    check_channels(network)
    names = class_names(network)
    device = accelerator.current_accelerator(check_available=True) or "cpu"
    network = network.eval().to(device)
    predictions: list[Prediction] = []
    pictures: list[tuple[Image.Image, str]] = []
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    with ThreadPoolExecutor(os.cpu_count()) as pool, large_images(max_megapixels):
        read = _reader(network)
        for batch in tracked(batches, "classifying", progress):
            done = list(zip(batch, pool.map(read, batch), strict=True))
            failures += [str(result) for _, result in done if isinstance(result, UserError)]
            good = [(each, result) for each, result in done if not isinstance(result, UserError)]
            if not good:
                continue
            found = _likeliest(network, torch.stack([tensor for _, (tensor, _) in good]).to(device), names, top)
            predictions += [Prediction(each.name, classes) for (each, _), classes in zip(good, found, strict=True)]
            room = max(0, SHOWN_IMAGES - len(pictures)) if output is not None else 0
            captions = [f"{classes[0][0]} {100 * classes[0][1]:.0f} %" for classes in found]
            pictures += [(thumb, said) for (_, (_, thumb)), said in zip(good[:room], captions[:room], strict=True)]
    if not predictions:
        raise UserError(nothing_to("classify", failures))
    if output is not None:
        write_whole(output / TABLE, render(predictions, "csv"))
        save_png(contact_sheet(pictures, SHEET_SIDE), output / SHEET)
        shown = f", the first {len(pictures)} images" if len(pictures) < len(predictions) else ""
        report(f"{output / TABLE}, {output / SHEET}{shown}")
    return predictions, failures


def class_names(network: nn.Module) -> tuple[str, ...]:
    """Names of a classifier's outputs: of its config, synsets in words; ImageNet's where it has as many; else numbers.

    Raises:
        UserError: It has one output or none, which is no choice.
    """
    count: Any = getattr(network, "num_classes", 0)
    if count < 2:
        raise UserError(f"{type(network).__name__} chooses between no classes: its head has {count} outputs.")
    names = label_names(network)
    if len(names) == count:
        if not all(re.fullmatch(r"n\d{8}", name) for name in names):
            return names
        words = ImageNetInfo("imagenet22k")
        return tuple(f"{words.label_name_to_description(name)} ({name})" for name in names)
    subset = infer_imagenet_subset(network)
    if subset:
        known = ImageNetInfo(subset)
        return tuple(known.index_to_description(index) for index in range(count))
    return tuple(map(str, range(count)))


def render(predictions: Sequence[Prediction], form: Format) -> str:
    """Predictions as text: a row a class in CSV, an object an image in JSON, a line an image in a table."""
    if form == "json":
        listed = [
            {"image": each.image, "classes": [{"class": name, "probability": share} for name, share in each.classes]}
            for each in predictions
        ]
        return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"
    if form == "csv":
        cells = (
            (each.image, rank, name, f"{share:.6f}")
            for each in predictions
            for rank, (name, share) in enumerate(each.classes, 1)
        )
        return csv_text([("image", "rank", "class", "probability"), *cells])
    width = max(len(each.image) for each in predictions)
    rows = (
        f"{each.image:{width}}  " + "  ".join(f"{100 * share:5.1f} % {name}" for name, share in each.classes)
        for each in predictions
    )
    return "\n".join(rows) + "\n"


def _reader(network: nn.Module) -> Callable[[Input], tuple[Tensor, Image.Image] | UserError]:
    """A function that reads an image: the network's input, and a small picture; or says why it cannot."""
    settings = preprocessing(network)
    transform, brightness = create_transform(**settings), recorded_brightness(network)
    mode = "L" if settings["input_size"][0] == 1 else "RGB"

    def read(each: Input) -> tuple[Tensor, Image.Image] | UserError:
        try:
            picture = read_picture(each.source, each.name, brightness=brightness)
        except UserError as error:
            return error
        small = ImageOps.contain(picture, (SHEET_SIDE, SHEET_SIDE))
        return transform(picture.convert(mode)), small

    return read


@torch.inference_mode()
def _likeliest(
    network: nn.Module, images: Tensor, names: Sequence[str], top: int
) -> list[tuple[tuple[str, float], ...]]:
    shares, indices = network(images).float().softmax(1).topk(min(top, len(names)))
    return [
        tuple((names[index], share) for index, share in zip(row, values, strict=True))
        for row, values in zip(indices.tolist(), shares.tolist(), strict=True)
    ]
