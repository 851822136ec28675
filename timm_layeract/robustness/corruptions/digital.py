"""Digital changes: contrast, elastic transform, pixelate, JPEG, saturation.

See `noise` for the signature.
"""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from .noise import Generators

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "pixelate", "saturate"]


def contrast(images: np.ndarray, factor: float, rngs: Generators) -> np.ndarray:
    """Draw every channel towards its mean over the image."""
    means = images.mean(axis=(1, 2), keepdims=True)
    return (images - means) * factor + means


def saturate(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """Scale and shift S of HSV: at the same H and V, the distance of a channel to V is proportional to S.

    A grey pixel has hue 0, so an offset turns it red, as in the original.
    """
    factor, offset = strength
    value = images.max(axis=-1, keepdims=True)
    spread = value - images.min(axis=-1, keepdims=True)
    coloured = spread > 0
    saturation = spread / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * factor + offset, 0, 1)
    grey = value * (1 - wanted * np.array([0, 1, 1]))
    return np.where(coloured, value - (value - images) * wanted / np.where(coloured, saturation, 1), grey)


def jpeg_compression(images: np.ndarray, quality: int, rngs: Generators) -> np.ndarray:
    """Write as JPEG and read again."""
    read = []
    for picture in _pictures(images):
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(file)))
    return np.stack(read) / 255


def pixelate(images: np.ndarray, share: float, rngs: Generators) -> np.ndarray:
    """Shrink to a share of the size and enlarge again, each pixel the mean of what it covers."""
    height, width = images.shape[1:3]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    box = Image.Resampling.BOX
    resized = [picture.resize(small, box).resize((width, height), box) for picture in _pictures(images)]
    return np.stack([np.asarray(picture) for picture in resized]) / 255


def _pictures(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image) for image in np.rint(255 * images).astype(np.uint8)]


def elastic_transform(images: np.ndarray, strength: tuple[float, float, float], rngs: Generators) -> np.ndarray:
    """Move three corners at random (affine), then every pixel by a smooth random field."""
    shift, smoothness, reach = strength
    height, width = images.shape[1:3]
    centre, side = np.array([height, width]) // 2, min(height, width) // 3
    corners = (centre + side * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)
    rows, columns = np.mgrid[:height, :width]
    moved = []
    for image, rng in zip(images, rngs, strict=True):
        shaken = corners + rng.uniform(-reach, reach, corners.shape).astype(np.float32)
        matrix = cv2.getAffineTransform(corners, shaken)
        image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        field = rng.uniform(-1, 1, (2, height, width))
        field = shift * ndimage.gaussian_filter(field, (0, smoothness, smoothness), mode="reflect", truncate=3)
        where = (rows + field[1], columns + field[0])
        moved.append(
            [ndimage.map_coordinates(plane, where, order=1, mode="reflect") for plane in image.transpose(2, 0, 1)]
        )
    return np.array(moved).transpose(0, 2, 3, 1)
