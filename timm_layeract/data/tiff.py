"""TIFF files that Pillow reads wrongly or not at all: tifffile reads them (`pip install 'timm-layeract[tiff]'`)."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError

__all__ = ["is_tiff", "loses_bits", "read_tiff", "tiff_size"]

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of BigTIFF
BITS, ORIENTATION = 258, 274  # tags
RGB, DARK_IS_ZERO = 2, 1  # photometric interpretations


def is_tiff(source: Path | bytes) -> bool:
    """Whether a file, or its content, is a TIFF."""
    if isinstance(source, bytes):
        return source.startswith(STARTS)
    with source.open("rb") as file:
        return file.read(4) in STARTS


def loses_bits(picture: Image.Image) -> bool:
    """Whether Pillow, which opened a TIFF, reduces it to 8 bits, as it does with all colour images."""
    bits: Any = getattr(picture, "tag_v2", {}).get(BITS, (8,))
    return picture.mode not in ("1", "I", "F") and not picture.mode.startswith("I;16") and max(bits) > 8


def read_tiff(source: Path | bytes, name: str) -> tuple[np.ndarray, int]:
    """Decode a TIFF of one image: values ``(H, W)`` or, of colours, ``(H, W, 3)``; and its orientation, as of EXIF.

    Args:
        source: File, or its content.
        name: What errors call it.

    Raises:
        UserError: tifffile is missing; several planes; no grey image and none in RGB; broken.
    """
    with _opened(source, name) as file:
        series, first = _series(file, name), file.pages[0]
        try:
            values = series.asarray()
        except Exception as error:  # whatever a codec raises
            raise UserError(f"Image {name} cannot be read ({str(error).splitlines()[0]}).") from error
        orientation = first.tags.valueof(ORIENTATION, 1)
    if series.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3:  # without an alpha channel
        values = values[..., :3] if values.shape[2] >= 3 else values[..., 0]
    return values, int(orientation)


def tiff_size(source: Path | bytes, name: str) -> tuple[int, int]:
    """Width and height of a TIFF, as it is stored."""
    with _opened(source, name) as file:
        series = _series(file, name)
        sizes = dict(zip(series.axes, series.shape, strict=True))
        return sizes["X"], sizes["Y"]


def _opened(source: Path | bytes, name: str) -> Any:
    """A TIFF as tifffile opens it."""
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name} is a TIFF of which Pillow loses something, or all; read it by pip install 'timm-layeract[tiff]'."
        ) from error
    try:
        return tifffile.TiffFile(BytesIO(source) if isinstance(source, bytes) else source)
    except Exception as error:  # tifffile raises what it likes over broken files
        raise UserError(f"Image {name} cannot be read ({str(error).splitlines()[0]}).") from error


def _series(file: Any, name: str) -> Any:
    """The only image of a file; a UserError that says what else there is."""
    if len(file.series) != 1:
        raise UserError(f"{name} holds {len(file.series)} images; save those you mean as files of their own.")
    (series,) = file.series
    first = file.pages[0]
    planes = {axis: size for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS"}
    if planes:
        shown = " x ".join(f"{size} of {axis}" for axis, size in planes.items())
        raise UserError(f"{name} holds planes, {shown}; save those you mean as files of their own.")
    if first.photometric not in (RGB, DARK_IS_ZERO) or np.iscomplexobj(np.empty(0, series.dtype)):
        raise UserError(f"{name} is neither a grey image nor one in RGB; save it as one of them.")
    width, height = (first.imagewidth, first.imagelength)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:  # as Pillow has it
        raise Image.DecompressionBombError(f"{width * height} pixels")
    return series
