"""Reading an image file of whatever kind into a uint8 tensor; padding."""

import math
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError

__all__ = [
    "bits_of_set",
    "called",
    "image_files",
    "open_picture",
    "pad_to",
    "pad_to_multiple",
    "padded_from",
    "read_image",
    "read_picture",
    "refuse_pages",
    "to_8_bits",
]

ORIENTATION = 0x0112  # of EXIF
BIT_DEPTHS = (8, 12, 16)  # that cameras mostly have


def image_files(folder: Path) -> list[Path]:
    """Files of a folder (not of those in it) whose suffix is an image's, sorted by name."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in suffixes and not path.name.startswith(".")  # ._a.png of a Mac
    )


def read_image(source: Path | bytes, name: str | None = None, bits: int | None = None) -> Tensor:
    """Decode an image: uint8 ``(3, H, W)``; see `read_picture`."""
    return torch.from_numpy(np.array(read_picture(source, name, bits=bits))).permute(2, 0, 1).contiguous()


def read_picture(
    source: Path | bytes, name: str | None = None, upright: bool = True, bits: int | None = None
) -> Image.Image:
    """Decode an image of whatever kind as people see it: upright, in RGB, 8 bits a channel.

    Grey, palette and CMYK images become RGB, an alpha channel is dropped, the orientation of EXIF is applied. Values of
    more than 8 bits are scaled by the bit depth that they take, see `to_8_bits`.

    Args:
        source: File, or its content.
        name: What errors call it; the path if left out.
        upright: Apply the orientation of EXIF.
        bits: Depth of the set that the image is one of, see `bits_of_set`; the image's own if None.

    Raises:
        UserError: Not an image that Pillow reads, broken, of several pages, or with colours of which Pillow loses most.
    """
    picture = open_picture(source, name)
    refuse_pages(picture, source, name)
    if _keeps_too_little(source, picture):
        raise UserError(
            f"Image {called(source, name)} has colours of 16 bits and uses 12 of them or fewer, of which Pillow keeps "
            f"the upper 4; save it with 8 bits a channel."
        )
    if _is_deep(picture):
        exif, picture = picture.getexif(), Image.fromarray(to_8_bits(np.asarray(picture), bits))
        picture.getexif().update(exif)
    if upright and picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB":
        return picture
    return (picture.convert("RGBA") if "transparency" in picture.info else picture).convert("RGB")


def bits_of_set(sources: Iterable[Path | bytes]) -> int | None:
    """The bit depth that all images of a set are scaled by, so that a dim one stays dimmer than a bright one.

    Args:
        sources: Files of the set, or their contents.

    Returns:
        The largest that an image takes, see `to_8_bits`; None where the first has 8 bits a channel.
    """
    largest = None
    for source in sources:
        if largest is None and not _is_deep(open_picture(source, None, decode=False)):
            return None
        picture = open_picture(source, None)
        if _is_deep(picture):
            largest = max(largest or 0, _bits(_range(np.asarray(picture))[1]))
    return largest


def to_8_bits(values: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Brightness of any range as uint8, by what is declared or usual rather than by the brightest pixel.

    Integers are taken to have the fewest bits, of 8, 12 and 16, that hold 999 of 1,000 of the values (a tenth more, for
    what a camera adds), so that a hot pixel changes nothing and an empty field stays flat; what is above is white.
    Floating-point numbers up to 1 run from 0 to 1, larger ones as integers. Where values lie below 0, they run from the
    lowest to the highest, but for one in 1,000 at each end. What is not finite is black, or white if it is infinity.

    Args:
        values: ``(H, W)``.
        bits: How many the integers have, where that is known.
    """
    numbers = values.astype(np.float64)
    low, high = _range(values)
    if low < 0:
        black, white = low, max(high, low + 1e-12)
    elif np.issubdtype(values.dtype, np.floating) and high <= 1:
        black, white = 0.0, 1.0
    elif bits is not None:
        black, white = 0.0, 2.0**bits - 1
    else:
        black, white = 0.0, max(2.0 ** _bits(high) - 1, high)
    scaled = (np.nan_to_num(numbers, nan=black, posinf=white, neginf=black).clip(black, white) - black) / (
        white - black
    )
    return (255 * scaled).round().astype(np.uint8)


def _is_deep(picture: Image.Image) -> bool:
    """Whether values have more than 8 bits."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest of the finite values, but for one in 1,000 at each end; zeros where there is none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0.0, 0.0)
    return float(low), float(high)


def _bits(high: float) -> int:
    """The fewest usual bits that hold a value, or as many as it takes."""
    return next((bits for bits in BIT_DEPTHS if high <= 1.1 * 2**bits), math.ceil(math.log2(high + 1)))


def _keeps_too_little(source: Path | bytes, picture: Image.Image) -> bool:
    """Whether it is a PNG in colour of 16 bits a channel, of which Pillow keeps 8, that uses no more than 12."""
    if picture.format != "PNG" or picture.mode not in ("RGB", "RGBA"):
        return False
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        head = file.read(26)
    deep = head.startswith(b"\x89PNG\r\n\x1a\n") and head[24] == 16 and head[25] in (2, 6)
    return deep and 0 < int(np.asarray(picture)[..., :3].max()) < 16


def refuse_pages(picture: Image.Image, source: Path | bytes, name: str | None) -> None:
    """Refuse (UserError) an image of several pages."""
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and picture.format != "MPO":  # a telephone's photograph with a preview
        raise UserError(f"{called(source, name)} holds {pages} pages; save those you mean as files of their own.")


def open_picture(source: Path | bytes, name: str | None, decode: bool = True) -> Image.Image:
    """An image as Pillow reads it, in one line a UserError where it cannot."""
    try:
        picture = Image.open(BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
        if decode:
            picture.load()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {called(source, name)}.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{called(source, name)} is not an image of a kind that Pillow reads.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"Image {called(source, name)} cannot be read ({error}).") from error
    return picture


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
