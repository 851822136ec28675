"""Reading an image or mask file of whatever kind into a uint8 tensor; padding."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError

__all__ = ["image_files", "pad_to", "pad_to_multiple", "read_image", "read_mask"]


def image_files(folder: Path) -> list[Path]:
    """Files of a folder (not of those in it) whose suffix is an image's, sorted by name."""
    suffixes = Image.registered_extensions()
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in suffixes)


def read_image(source: Path | bytes, name: str | None = None) -> Tensor:
    """Decode an image: uint8 ``(3, H, W)``.

    Grey and palette images become RGB, an alpha channel is dropped, of several frames the first is taken. Values of
    more than 8 bits are stretched from the darkest pixel to the brightest, as microscopes rarely fill their range.

    Args:
        source: File, or its content.
        name: What errors call it; the path if left out.

    Raises:
        UserError: Not an image that Pillow reads, or broken.
    """
    picture = _open(source, name)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        scaled = np.zeros_like(values) if high == low else (values - low) * (255 / (high - low))
        picture = Image.fromarray(scaled.round().astype(np.uint8))
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_mask(source: Path | bytes, name: str | None = None) -> Tensor:
    """Decode a mask of two values, background 0 and anything else: uint8 ``(H, W)`` of zeros and ones.

    Raises:
        UserError: Not an image, in colour, or with more than two values.
    """
    picture = _open(source, name)
    if picture.mode == "P":  # a palette's indices are the labels, its colours are decoration
        picture = Image.fromarray(np.asarray(picture))
    values = np.asarray(picture)
    if values.ndim == 3:
        values = values[..., :3]
        if not (values == values[..., :1]).all():
            raise UserError(f"Mask {_called(source, name)} is in colour; give masks of one channel.")
        values = values[..., 0]
    kinds = np.unique(values)
    if len(kinds) > 2 or (len(kinds) == 2 and kinds[0] != 0):
        shown = ", ".join(map(str, kinds[:5])) + (", ..." if len(kinds) > 5 else "")
        raise UserError(
            f"Mask {_called(source, name)} holds the values {shown}; a mask is 0 and one other value "
            f"(save it as PNG: JPEG blurs the edge)."
        )
    return torch.from_numpy((values != 0).astype(np.uint8))


def _open(source: Path | bytes, name: str | None) -> Image.Image:
    try:
        picture = Image.open(BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
        picture.load()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {_called(source, name)}.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{_called(source, name)} is not an image of a kind that Pillow reads.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"Image {_called(source, name)} cannot be read ({error}).") from error
    return picture


def _called(source: Path | bytes, name: str | None) -> str:
    return name if name is not None else str(source) if isinstance(source, Path) else "without a name"


def pad_to(images: Tensor, height: int, width: int) -> Tensor:
    """Mirror the right and lower edges up to a size; an image too small to mirror repeats its edge.

    Args:
        images: ``(N, C, H, W)``, uint8 or float.
        height: Not below that of the images.
        width: Not below that of the images.
    """
    rows, columns = height - images.shape[-2], width - images.shape[-1]
    if rows == columns == 0:
        return images
    mode = "reflect" if rows < images.shape[-2] and columns < images.shape[-1] else "replicate"
    if images.is_floating_point():
        return F.pad(images, [0, columns, 0, rows], mode=mode)
    return F.pad(images.float(), [0, columns, 0, rows], mode=mode).to(images.dtype)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """`pad_to` the next multiples of a number of pixels."""
    height, width = images.shape[-2:]
    return pad_to(images, height + -height % multiple, width + -width % multiple)
