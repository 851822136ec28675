"""Weather: snow, frost, fog, brightness, spatter.

See `noise` for the signature.
"""

import functools
import importlib.resources

import cv2
import numpy as np
from PIL import Image

from .blur import move, smooth, zoom_matrix
from .noise import Generators

__all__ = ["brightness", "fog", "frost", "snow", "spatter"]

# The original ships six photographs and draws among the first five.
FROST = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255
LUMA = np.array([0.299, 0.587, 0.114])


def snow(images: np.ndarray, strength: tuple[float, ...], rngs: Generators) -> np.ndarray:
    """Lighten, and add flakes that fall in one direction, and the same flakes turned by half a circle."""
    mean, deviation, zoom, threshold, radius, sigma, kept = strength
    height, width = images.shape[1:3]
    flakes = np.stack([rng.normal(mean, deviation, (height, width)) for rng in rngs])
    flakes = zoom_matrix(height, zoom) @ flakes @ zoom_matrix(width, zoom).T
    flakes = np.floor(255 * np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)) / 255
    flakes = move(flakes, radius, sigma, [rng.uniform(-135, -45) for rng in rngs])[..., None]
    grey = (images @ LUMA)[..., None]
    lit = kept * images + (1 - kept) * np.maximum(images, 1.5 * grey + 0.5)
    return lit + flakes + flakes[:, ::-1, ::-1]


def frost(images: np.ndarray, strength: tuple[float, float, float], rngs: Generators) -> np.ndarray:
    """Mix with a random window of a photograph of frost, scaled by the last of the strengths."""
    kept, amount, scale = strength
    height, width = images.shape[1:3]
    windows = []
    for rng in rngs:
        photograph = _frost(FROST[rng.integers(len(FROST))], scale, height, width)
        row, column = (
            rng.integers(0, have - want) for have, want in zip(photograph.shape, (height, width), strict=False)
        )
        windows.append(photograph[row : row + height, column : column + width])
    return kept * images + amount * np.stack(windows)


@functools.lru_cache
def _frost(name: str, scale: float, height: int, width: int) -> np.ndarray:
    """A photograph in [0, 1], scaled, and enlarged further where images are larger than it."""
    path = importlib.resources.files("imagecorruptions") / "frost" / name
    with path.open("rb") as file:
        photograph = np.asarray(Image.open(file).convert("RGB"))
    scale = max(scale, (height + 1) / photograph.shape[0], (width + 1) / photograph.shape[1])
    return cv2.resize(photograph, (0, 0), fx=scale, fy=scale) / 255


def fog(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """Add a cloud (plasma fractal), and darken so that the brightest value stays."""
    amount, decay = strength
    height, width = images.shape[1:3]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    clouds = _plasma(max(height, width), decay, rngs)[:, :height, :width, None]
    return (images + amount * clouds) * brightest / (brightest + amount)


def _plasma(size: int, decay: float, rngs: Generators) -> np.ndarray:
    """Diamond-square fractals over a torus, each in [0, 1]: ``(N, s, s)``, s the power of two from `size` on."""
    side = 1 << (size - 1).bit_length()
    random = np.stack([rng.uniform(-1, 1, side * side - 1) for rng in rngs])
    height, used, step, rough = np.zeros((len(rngs), side, side)), 0, side, 100.0
    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]
        cells = corners.shape[1]

        def around(total: np.ndarray, cells: int = cells, rough: float = rough) -> np.ndarray:
            """The mean of four neighbours and a random amount; the original's amount is the roughness squared."""
            nonlocal used
            drawn = random[:, used : used + cells * cells].reshape(-1, cells, cells)
            used += cells * cells
            return total / 4 + rough**2 * drawn

        below = corners + np.roll(corners, -1, axis=1)
        middles = around(below + np.roll(below, -1, axis=2))
        height[:, half::step, half::step] = middles
        across = corners + np.roll(corners, -1, axis=2)
        height[:, ::step, half::step] = around(middles + np.roll(middles, 1, axis=1) + across)
        height[:, half::step, ::step] = around(middles + np.roll(middles, 1, axis=2) + below)
        step, rough = half, rough / decay
    height -= height.min(axis=(1, 2), keepdims=True)
    return height / height.max(axis=(1, 2), keepdims=True)


def brightness(images: np.ndarray, amount: float, rngs: Generators) -> np.ndarray:
    """Raise V of HSV: at the same H and S, a colour is proportional to its V, the largest of its channels."""
    value = images.max(axis=-1, keepdims=True)
    raised = np.minimum(value + amount, 1)
    return np.where(value > 0, images * (raised / np.where(value > 0, value, 1)), raised)


def spatter(images: np.ndarray, strength: tuple[float, ...], rngs: Generators) -> np.ndarray:
    """Splashes of water (severities 1 to 3) or of mud."""
    mean, deviation, sigma, threshold, last, mud = strength
    liquid = smooth(np.stack([rng.normal(mean, deviation, images.shape[1:3]) for rng in rngs]), sigma)
    if mud:
        cover = smooth((liquid > threshold).astype(np.float64), last)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return images * (1 - cover) + MUD * cover
    drops = np.floor(255 * np.clip(np.where(liquid < threshold, 0, liquid), 0, 1)).astype(np.uint8)
    return images + last * np.stack([_water(layer) for layer in drops])[..., None] * WATER


def _water(layer: np.ndarray) -> np.ndarray:
    """Light and shade of drops, at most 1, from their thickness (uint8 ``(H, W)``): an embossed map of distances."""
    distance = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    shaded = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, emboss)
    drops = layer * cv2.blur(shaded, (3, 3)).astype(np.float64)
    return drops / max(drops.max(), 1)
