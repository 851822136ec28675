"""Blurs: defocus, glass, motion, zoom, Gaussian. See `noise` for the signature."""

import math

import cv2
import numpy as np
from scipy import ndimage

from .noise import Generators

__all__ = ["defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "move", "smooth", "zoom_blur", "zoom_matrix"]


def smooth(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian filter over axes 1 and 2 of ``(N, H, W, ...)``, repeating the border."""
    sigmas = (0, sigma, sigma, *(0,) * (images.ndim - 3))
    return ndimage.gaussian_filter(images, sigmas, mode="nearest", truncate=4.0)


def gaussian_blur(images: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    """Gaussian filter."""
    return smooth(images, sigma)


def glass_blur(images: np.ndarray, strength: tuple[float, int, int], rngs: Generators) -> np.ndarray:
    """Replace each pixel by one up to `reach` away, between two Gaussian filters.

    The original means to swap the two pixels, but its views make it a copy, and so are the released images.
    """
    sigma, reach, rounds = strength
    count, height, width, _ = images.shape
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    shape = (rounds, len(rows), len(columns), 2)
    offsets = np.stack([rng.integers(-reach, reach, shape, dtype=np.int8) for rng in rngs], axis=-1)
    # where each output pixel comes from, the image last so that one step of the walk is one indexing operation
    source = np.repeat(np.arange(height * width).reshape(height, width, 1), count, axis=2)
    every = np.arange(count)
    for walk in offsets:
        for row, in_row in zip(rows, walk, strict=True):
            for column, (across, down) in zip(columns, in_row, strict=True):
                source[row, column] = source[row + down, column + across, every]
    quantised = np.floor(255 * smooth(images, sigma)) / 255
    flat = quantised.reshape(count, height * width, 3)
    moved = np.take_along_axis(flat, source.reshape(-1, count).T[:, :, None], axis=1)
    return smooth(moved.reshape(images.shape), sigma)


def defocus_blur(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """Filter with an antialiased disk."""
    radius, alias = strength
    reach, size = (8, 3) if radius <= 8 else (int(radius), 5)
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float64)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (size, size), alias)
    filled = np.flatnonzero(kernel.any(axis=0))
    kernel = kernel[filled[0] : filled[-1] + 1, filled[0] : filled[-1] + 1]
    return np.stack([cv2.filter2D(image, -1, kernel) for image in images])


def motion_blur(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """One-sided motion at an angle of up to 45 degrees from the horizontal."""
    radius, sigma = strength
    return move(images, radius, sigma, [rng.uniform(-45, 45) for rng in rngs])


def move(images: np.ndarray, radius: float, sigma: float, angles: list[float]) -> np.ndarray:
    """Motion blur as ImageMagick's: 2 radius + 1 steps with half a Gaussian's weights, rounded to 8 bits.

    Args:
        images: ``(N, H, W, ...)`` in [0, 1].
        radius: Steps to the Gaussian's half width, pixels.
        sigma: Standard deviation of the Gaussian, in pixels.
        angles: Angle for each image, in degrees from the horizontal.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    pad, (_, height, width) = len(steps), images.shape[:3]
    edges = ((0, 0), (pad, pad), (pad, pad), *((0, 0),) * (images.ndim - 3))
    padded, blurred = np.pad(images, edges, mode="edge"), np.zeros_like(images)
    for image, wide, angle in zip(blurred, padded, np.deg2rad(angles), strict=True):
        down = np.ceil(steps * np.sin(angle) - 0.5).astype(int) + pad
        across = np.ceil(steps * np.cos(angle) - 0.5).astype(int) + pad
        for weight, row, column in zip(weights, down, across, strict=True):
            image += weight * wide[row : row + height, column : column + width]
    return np.rint(255 * blurred) / 255


def zoom_matrix(size: int, factor: float) -> np.ndarray:
    """``(size, size)``: cut the middle ``1/factor`` of an axis out and stretch it linearly over the whole axis."""
    cut = math.ceil(size / factor)
    start = (size - cut) // 2
    stretched = ndimage.zoom(np.eye(cut), (factor, 1), order=1)
    trim = (len(stretched) - size) // 2
    matrix = np.zeros((size, size))
    matrix[:, start : start + cut] = stretched[trim : trim + size]
    return matrix


def zoom_blur(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """Mean of the image and of its enlargements by 1 to `largest`."""
    largest, step = strength
    # float steps: whether the last one is in is as in the original
    factors = np.arange(1, largest, step)
    height, width = images.shape[1:3]
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    total = planes.copy()
    for factor in factors:
        total += zoom_matrix(height, factor) @ (planes @ zoom_matrix(width, factor).T)
    return total.transpose(0, 2, 3, 1) / (len(factors) + 1)
