"""Noise: Gaussian, shot, impulse, speckle.

Every corruption takes images (float64 ``(N, H, W, 3)`` in [0, 1]), its strength at a severity, and a generator of
random numbers for each image; it returns float64 of the same shape, which `generate` clips and quantises.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"]

Generators = Sequence[np.random.Generator]


def gaussian_noise(images: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    """Add N(0, sigma) to every value."""
    return images + sigma * _normal(images, rngs)


def speckle_noise(images: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    """Multiply every value by N(1, sigma)."""
    return images + images * sigma * _normal(images, rngs)


def shot_noise(images: np.ndarray, photons: float, rngs: Generators) -> np.ndarray:
    """Count photons: Poisson with `photons` for a white value."""
    counts = [rng.poisson(image * photons) for image, rng in zip(images, rngs, strict=True)]
    return np.stack(counts) / photons


def impulse_noise(images: np.ndarray, amount: float, rngs: Generators) -> np.ndarray:
    """Set a share `amount` of the values to black or white, half each, every channel by itself."""
    chance = np.stack([rng.random(images.shape[1:]) for rng in rngs])
    return np.where(chance < amount / 2, 0.0, np.where(chance < amount, 1.0, images))


def _normal(images: np.ndarray, rngs: Generators) -> np.ndarray:
    return np.stack([rng.standard_normal(images.shape[1:]) for rng in rngs])
