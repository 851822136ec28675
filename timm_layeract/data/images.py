"""Reading an image file of whatever kind into a uint8 tensor; padding."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError
from .brightness import Brightness, to_8_bits
from .tiff import is_tiff, loses_bits, read_tiff, tiff_size

__all__ = [
    "brightness_of_set",
    "called",
    "decode",
    "image_files",
    "image_size",
    "large_images",
    "pad_to",
    "pad_to_multiple",
    "padded_from",
    "read_image",
    "read_picture",
]

ORIENTATION = 0x0112  # of EXIF


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder, by their suffix, sorted by name; subfolders are not searched."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in suffixes and not path.name.startswith(".")  # ._a.png of a Mac
    )


def read_image(source: Path | bytes, name: str | None = None, brightness: Brightness | None = None) -> Tensor:
    """Decode an image: uint8 ``(3, H, W)``; see `read_picture`."""
    picture = np.array(read_picture(source, name, brightness=brightness))
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous()


def read_picture(
    source: Path | bytes, name: str | None = None, upright: bool = True, brightness: Brightness | None = None
) -> Image.Image:
    """Decode an image of whatever kind as people see it: upright, in RGB, 8 bits a channel.

    Grey, palette and CMYK images become RGB, an alpha channel is dropped, the orientation of EXIF is applied. Values of
    more than 8 bits are scaled, see `brightness`.

    Args:
        source: File, or its content.
        name: What errors call it; the path if left out.
        upright: Apply the orientation of EXIF.
        brightness: Brightness of the set that the image belongs to, see `brightness_of_set`; the image's own if None.

    Raises:
        UserError: Not an image that can be read, broken, of several pages, or with colours of which Pillow loses most.
    """
    picture = decode(source, name, upright)
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(to_8_bits(picture, brightness))
    if _keeps_too_little(source, picture):
        raise UserError(
            f"Image {called(source, name)} has colours of 16 bits and uses 12 of them or fewer, of which Pillow keeps "
            f"the upper 4; save it with 8 bits a channel."
        )
    if picture.mode == "RGB":
        return picture
    return (picture.convert("RGBA") if "transparency" in picture.info else picture).convert("RGB")


def brightness_of_set(sources: Iterable[Path | bytes]) -> Brightness | None:
    """What all images of a set are scaled by, so that a dim one stays dimmer than a bright one.

    Args:
        sources: Files of the set, or their contents.

    Returns:
        What holds the values of all; None where the first has 8 bits a channel.
    """
    found: list[Brightness] = []
    for source in sources:
        if not found and not is_deep(source):
            return None
        values = decode(source)
        if isinstance(values, np.ndarray):
            found.append(Brightness.of(values))
    return Brightness.of_all(found)


def decode(source: Path | bytes, name: str | None = None, upright: bool = True) -> Image.Image | np.ndarray:
    """An image of 8 bits a channel as Pillow has it; the values of another, ``(H, W)`` or ``(H, W, 3)``.

    Arguments and errors as for `read_picture`.
    """
    picture = _open(source, name)
    if picture is None or (picture.format == "TIFF" and loses_bits(picture)):
        with _in_one_line(source, name):
            values, orientation = read_tiff(source, called(source, name))
        return _turned(values, orientation) if upright else values
    with _in_one_line(source, name):
        picture.load()
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and picture.format != "MPO":  # a telephone's photograph with a preview
        raise UserError(f"{called(source, name)} holds {pages} pages; save those you mean as files of their own.")
    orientation = picture.getexif().get(ORIENTATION, 1) if upright else 1
    if _has_deep_mode(picture):
        return _turned(np.asarray(picture), orientation)
    return picture if orientation == 1 else ImageOps.exif_transpose(picture)


def is_deep(source: Path | bytes, name: str | None = None) -> bool:
    """Whether an image has more than 8 bits per channel, by its header; not if Pillow keeps only 8 of them."""
    picture = _open(source, name)
    return picture is None or _has_deep_mode(picture) or (picture.format == "TIFF" and loses_bits(picture))


def image_size(source: Path | bytes, name: str | None = None) -> tuple[int, int]:
    """Width and height of an image as stored, by its header."""
    picture = _open(source, name)
    if picture is not None:
        return picture.size
    with _in_one_line(source, name):
        return tiff_size(source, called(source, name))


@contextmanager
def large_images(megapixels: float | None) -> Iterator[None]:
    """Allow images of so many megapixels while the block runs; 179 if None, a guard against decompression bombs."""
    before = Image.MAX_IMAGE_PIXELS
    if megapixels is not None:
        # Pillow warns above this number, and refuses above its double
        Image.MAX_IMAGE_PIXELS = max(before or 0, math.ceil(megapixels * 1e6))
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _open(source: Path | bytes, name: str | None) -> Image.Image | None:
    """An image opened by Pillow, not decoded yet; None for a TIFF that it does not support."""
    with _in_one_line(source, name):
        try:
            return Image.open(BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
        except UnidentifiedImageError:
            if is_tiff(source):
                return None
            raise


@contextmanager
def _in_one_line(source: Path | bytes, name: str | None) -> Iterator[None]:
    """Say in one line what Pillow raises over an image."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"There is no file {called(source, name)}.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{called(source, name)} is not an image of a kind that Pillow reads.") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"Image {called(source, name)} has more pixels than a file that can be trusted mostly has ({error}): "
            f"`layeract predict --max-megapixels` takes larger ones."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Image {called(source, name)} cannot be read ({error}).") from error


def _has_deep_mode(picture: Image.Image) -> bool:
    """Whether Pillow has more than 8 bits of it."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values ``(H, W, ...)`` turned upright by the EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _keeps_too_little(source: Path | bytes, picture: Image.Image) -> bool:
    """Whether it is a 16-bit colour PNG, of which Pillow keeps 8 bits, that uses no more than 12."""
    if picture.format != "PNG" or picture.mode not in ("RGB", "RGBA"):
        return False
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        head = file.read(26)
    deep = head.startswith(b"\x89PNG\r\n\x1a\n") and head[24] == 16 and head[25] in (2, 6)
    return deep and 0 < int(np.asarray(picture)[..., :3].max()) < 16


def called(source: Path | bytes, name: str | None) -> str:
    """What errors call an image."""
    return name if name is not None else str(source) if isinstance(source, Path) else "without a name"


def pad_to(images: Tensor, height: int, width: int) -> Tensor:
    """Mirror the right and lower edges up to a size; an image too small to mirror repeats its edge.

    Args:
        images: ``(N, C, H, W)``, uint8 or float.
        height: Not below that of the images.
        width: Not below that of the images.
    """
    if (height, width) == tuple(images.shape[-2:]):
        return images
    rows, columns = padded_from(images.shape[-2], images.shape[-1], height, width)
    return images.index_select(-2, rows.to(images.device)).index_select(-1, columns.to(images.device))


def padded_from(height: int, width: int, to_height: int, to_width: int) -> tuple[Tensor, Tensor]:
    """Which row and column of an image stands where when it is padded to a size, see `pad_to`."""
    mirrors = to_height < 2 * height and to_width < 2 * width
    ends = ((height, to_height), (width, to_width))
    rows, columns = (
        torch.cat([torch.arange(start), torch.arange(start - 2, 2 * start - 2 - end, -1)])
        if mirrors
        else torch.arange(end).clamp(max=start - 1)
        for start, end in ends
    )
    return rows, columns


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """`pad_to` the next multiples of a number of pixels."""
    height, width = images.shape[-2:]
    return pad_to(images, height + -height % multiple, width + -width % multiple)
