"""Pictures of masks for people: laid over the image, beside the truth, with a legend of their classes."""

import colorsys
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_segmentation_masks, make_grid

from .._utils.writing import writing
from .images import pad_to
from .mask_values import VOID

__all__ = ["colour", "compare_masks", "contact_sheet", "indexed", "labels_of", "overlay", "save_png", "with_legend"]

COLOURS = ["#ff2d55", "#34c759", "#0a84ff", "#ffd60a", "#bf5af2", "#64d2ff", "#ff9f0a", "#ac8e68"]
ROWS = 64  # that are drawn at once, as floating-point numbers
VOID_COLOUR = "#8e8e93"
LINE, BOX, GAP = 18, 12, 6  # pixels of a legend


def colour(label: int) -> str:
    """The colour of a class, ``#rrggbb``: black for class 0, a different one for every other class."""
    if label == 0:
        return "#000000"
    if label == VOID:
        return VOID_COLOUR
    if label <= len(COLOURS):
        return COLOURS[label - 1]
    turns = label * (math.sqrt(5) - 1) / 2  # by the golden ratio, hues never come twice
    rgb = colorsys.hsv_to_rgb(turns % 1, 0.5 + 0.5 * (label % 3) / 2, 0.6 + 0.4 * (label % 4) / 3)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def indexed(mask: Tensor) -> Image.Image:
    """A mask of classes, uint8 ``(H, W)``, as an image of their numbers, with a palette of their colours."""
    picture = Image.fromarray(mask.numpy())
    picture.putpalette(bytes.fromhex("".join(colour(label)[1:] for label in range(256))))
    return picture


def save_png(picture: Tensor | Image.Image, path: Path) -> None:
    """Write a picture, as a tensor uint8 ``(H, W)`` or ``(3, H, W)``."""
    with writing(path) as file:
        (to_pil_image(picture) if isinstance(picture, Tensor) else picture).save(file, "PNG")


def overlay(image: Tensor, mask: Tensor) -> Tensor:
    """Lay a mask over its image, a colour for each class.

    Args:
        image: uint8 ``(3, H, W)``.
        mask: Class of each pixel, 0 for the background, ``(H, W)``.

    Returns:
        uint8 ``(3, H, W)``.
    """
    drawn = image.clone()
    for top in range(0, mask.shape[0], ROWS):
        rows = slice(top, top + ROWS)
        present = [label for label in labels_of(mask[rows]) if label]
        if present:
            masks, colours = torch.stack([mask[rows] == label for label in present]), [colour(each) for each in present]
            drawn[:, rows] = draw_segmentation_masks(image[:, rows], masks, 0.45, colours)
    return drawn


def labels_of(mask: Tensor) -> list[int]:
    """The classes that a mask has."""
    return sorted({label for rows in mask.split(ROWS) for label in rows.unique().tolist()})


def with_legend(picture: Tensor, names: Sequence[str], present: Iterable[int]) -> Tensor:
    """A picture with the colours of classes below it, in as many columns as fit.

    Args:
        picture: uint8 ``(3, H, W)``.
        names: Names of all classes, in the order of their numbers.
        present: Which of them the legend has; class 0 has no colour, and no place in it.

    Returns:
        uint8 ``(3, H', W')``, as wide as the picture or the longest name.
    """
    labels = sorted({label for label in present if label})
    if not labels:
        return picture
    font = ImageFont.load_default()
    texts = ["void" if label == VOID else names[label] for label in labels]
    column = BOX + 3 * GAP + max(math.ceil(font.getlength(text)) for text in texts)
    width = max(picture.shape[2], column)
    columns = min(width // column, len(labels))
    height = GAP + LINE * -(-len(labels) // columns)
    legend = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(legend)
    for index, (label, text) in enumerate(zip(labels, texts, strict=True)):
        left, top = GAP + column * (index % columns), GAP + LINE * (index // columns)
        draw.rectangle((left, top, left + BOX - 1, top + BOX - 1), colour(label))
        draw.text((left + BOX + GAP, top), text, "black", font)
    wide = picture.new_full((3, picture.shape[1], width), 255)
    wide[..., : picture.shape[2]] = picture
    return torch.cat([wide, pil_to_tensor(legend)], 1)


def compare_masks(
    samples: Iterable[tuple[Tensor, Tensor, Tensor]], side: int = 256, names: Sequence[str] = ()
) -> Tensor:
    """A row for each sample: image, truth and prediction, the upper left corner of `side` pixels.

    Args:
        samples: Images ``(3, H, W)`` with their true and predicted masks ``(H, W)``, all uint8.
        side: Side of each picture, in pixels.
        names: Class names; if there are several, a legend names those that are visible.

    Returns:
        uint8 ``(3, H', W')``.
    """
    pictures = []
    present: set[int] = set()
    for image, truth, found in samples:
        for mask in (None, truth, found):
            picture = image if mask is None else overlay(image, mask)
            present.update([] if mask is None else np.unique(mask[:side, :side].numpy()).tolist())
            height, width = (max(side, length) for length in picture.shape[1:])
            pictures.append(pad_to(picture[None], height, width)[0, :, :side, :side])
    grid = make_grid(torch.stack(pictures), nrow=3, padding=4, pad_value=255)
    return with_legend(grid, names, present) if len(names) > 1 else grid


def contact_sheet(pictures: Sequence[tuple[Image.Image, str]], side: int) -> Image.Image:
    """Pictures of at most `side` pixels in rows, as many as in columns, each with a line below it."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = side + GAP, side + LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, (picture, text) in enumerate(pictures):
        left, top = GAP + width * (index % columns), GAP + height * (index // columns)
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        while font.getlength(text) > side:
            text = text[:-2].rstrip(".") + "."
        draw.text((left, top + side + 2), text, "black", font)
    return sheet
