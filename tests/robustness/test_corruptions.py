"""The 19 corruptions: what comes out, whatever the order; against an independent implementation where one exists."""

from collections.abc import Iterator

import imagecorruptions.corruptions as reference
import matplotlib.colors
import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.datasets import load_sample_images
from torch import Tensor

from timm_layeract.errors import UserError
from timm_layeract.robustness.corruptions import blur, constants, digital, generate, noise, weather
from timm_layeract.robustness.corruptions.constants import CATEGORIES, CORRUPTIONS, SEVERITIES, SIMPLE
from timm_layeract.robustness.corruptions.generate import corrupt

# Where the published strengths do not grow, neither does the distance: severity 2 to 3, say, changes the kind.
UNEVEN = {"glass_blur", "frost", "elastic_transform", "spatter", "saturate", "motion_blur"}


def photographs(count: int, height: int, width: int) -> Tensor:
    """Windows of scikit-learn's two photographs, reduced by two: uint8 ``(N, 3, H, W)``."""
    rng, cut = np.random.default_rng(0), []
    for index in range(count):
        picture = load_sample_images().images[index % 2][::2, ::2]
        row, column = rng.integers(picture.shape[0] - height), rng.integers(picture.shape[1] - width)
        cut.append(picture[row : row + height, column : column + width])
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()


def unit(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy() / 255.0


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(index) for index in range(count)]


@pytest.fixture(scope="module")
def small() -> Tensor:
    return photographs(40, 32, 32)


@pytest.mark.parametrize("name", [*CORRUPTIONS, *SIMPLE])
def test_corrupted_images_whatever_the_order(name: str, small: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corrupt(small, name, 3)
    assert (whole.dtype, whole.shape) == (torch.uint8, small.shape)
    assert not torch.equal(whole, small)
    backwards = torch.arange(len(small)).flip(0)
    assert torch.equal(corrupt(small[backwards], name, 3, indices=backwards.tolist()), whole[backwards])
    assert torch.equal(corrupt(small[7:8], name, 3, indices=[7]), whole[7:8])
    monkeypatch.setattr(generate, "_CHUNK", 17 * 32 * 32)
    assert torch.equal(corrupt(small, name, 3), whole)


@pytest.mark.parametrize("name", [*CORRUPTIONS, *SIMPLE])
def test_damage_grows_with_severity(name: str, small: Tensor) -> None:
    sets = [corrupt(small, name, severity) for severity in SEVERITIES]
    distance = [float((images.float() - small.float()).abs().mean()) for images in sets]
    assert min(distance) > 0.2
    if name not in UNEVEN:
        assert distance == sorted(distance)


def test_random_corruptions_follow_seed_index_and_severity(small: Tensor) -> None:
    for name in ("impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform", "spatter"):
        one = corrupt(small[:4], name, 3)
        assert not torch.equal(corrupt(small[:4], name, 3, seed=1), one)
        assert not torch.equal(corrupt(small[:4], name, 3, indices=[4, 5, 6, 7]), one)
    # two copies of an image are corrupted differently
    twice = corrupt(small[:1].expand(2, -1, -1, -1), "gaussian_noise", 3)
    assert not torch.equal(twice[0], twice[1])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 31), (64, 48), (65, 90)])
def test_odd_sizes(height: int, width: int) -> None:
    images = photographs(2, height, width)
    for name in CORRUPTIONS:
        assert corrupt(images, name, 5).shape == images.shape


def test_black_and_white_images_stay_finite() -> None:
    for value in (0, 255):
        images = torch.full((2, 3, 16, 16), value, dtype=torch.uint8)
        for name in CORRUPTIONS:
            result = corrupt(images, name, 2).float()
            if name in ("contrast", "gaussian_blur", "defocus_blur", "zoom_blur", "motion_blur", "pixelate"):
                assert float((result - value).abs().max()) == 0, name


def test_strengths_follow_the_size() -> None:
    assert [constants.benchmark_of(side, side) for side in (8, 32, 33, 64, 65, 224)] == [
        "CIFAR-10-C", "CIFAR-10-C", "Tiny-ImageNet-C", "Tiny-ImageNet-C", "ImageNet-C", "ImageNet-C",
    ]  # fmt: skip
    assert constants.strength("gaussian_noise", 5, "CIFAR-10-C") == 0.10
    assert constants.strength("gaussian_noise", 5, "ImageNet-C") == 0.38
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 19
    assert [len(names) for names in CATEGORIES.values()] == [3, 4, 4, 4, 4]


def test_noise_has_its_moments() -> None:
    grey = np.full((40, 32, 32, 3), 0.5)
    added = noise.gaussian_noise(grey, 0.1, generators(40)) - grey
    assert added.mean() == pytest.approx(0, abs=2e-3)
    assert added.std() == pytest.approx(0.1, rel=0.02)
    assert noise.speckle_noise(grey, 0.2, generators(40)).std() == pytest.approx(0.1, rel=0.02)
    shot = noise.shot_noise(grey, 60, generators(40))
    assert shot.mean() == pytest.approx(0.5, rel=0.01)
    assert shot.var() == pytest.approx(0.5 / 60, rel=0.03)
    impulses = noise.impulse_noise(grey, 0.1, generators(40))
    assert [(impulses == value).mean() for value in (0, 1)] == pytest.approx([0.05, 0.05], rel=0.1)
    assert (impulses == 0.5).mean() == pytest.approx(0.9, rel=0.01)


# ---- against imagecorruptions, another implementation of the same algorithms with ImageNet-C's strengths ----

EXACT = (*CATEGORIES["digital"][2:], "contrast", "gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "saturate")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_deterministic_corruptions_agree_with_the_reference(name: str, severity: int) -> None:
    images = photographs(2, 96, 96)
    ours = corrupt(images, name, severity)
    for image, mine in zip(images, ours, strict=True):
        theirs = np.uint8(getattr(reference, name)(reference.Image.fromarray(image.permute(1, 2, 0).numpy()), severity))
        difference = np.abs(mine.permute(1, 2, 0).numpy().astype(int) - theirs)
        # values that are whole but for rounding (a saturation doubled gives many) are cut down by one there, not here
        assert difference.max() <= 1
        assert difference.mean() < 0.2


@pytest.mark.parametrize("angle", [-130.0, -90.0, -45.0, 0.0, 12.5, 45.0])
def test_motion_agrees_with_the_reference(angle: float) -> None:
    image = unit(photographs(1, 70, 80))
    theirs = reference._motion_blur(255 * image[0], radius=10, sigma=3, angle=angle)
    np.testing.assert_allclose(255 * blur.move(image, 10, 3, [angle])[0], theirs, atol=0.51)


def _interpreted(height: int, width: int, image: np.ndarray, strength: tuple[float, int, int], seed: int) -> np.ndarray:
    return shuffle(height, width, image, strength, seed % 2**32)


shuffle = reference._shuffle_pixels_njit_glass_blur.py_func


class Replay:
    """Stands in for numpy's global `uniform`, returning numbers drawn before, in their order."""

    def __init__(self, drawn: np.ndarray) -> None:
        self.drawn = drawn

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        taken, self.drawn = self.drawn[:count], self.drawn[count:]
        return (low + (high - low) * (taken + 1) / 2).reshape(shape)


@pytest.mark.parametrize(("side", "decay"), [(32, 3), (64, 1.75)])
def test_fog_agrees_with_the_reference(side: int, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = weather._plasma(side, decay, generators(3))
    for index, rng in enumerate(generators(3)):
        replay = Replay(rng.uniform(-1, 1, side * side - 1))
        monkeypatch.setattr(reference.np.random, "uniform", replay.uniform)
        np.testing.assert_allclose(ours[index], reference.plasma_fractal(side, decay), atol=2e-6)


@pytest.mark.parametrize("name", ["snow", "frost", "fog", "spatter", "elastic_transform", "motion_blur", "glass_blur"])
@pytest.mark.parametrize("severity", [1, 5])
def test_random_corruptions_agree_with_the_reference_on_average(
    name: str, severity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = photographs(1, 96, 96).expand(24, -1, -1, -1)
    ours = unit(corrupt(images, name, severity))
    if name == "glass_blur":  # without compiling it, which takes longer
        monkeypatch.setattr(reference, "_shuffle_pixels_njit_glass_blur", _interpreted)
    if name == "elastic_transform":  # other strengths there, and no affine part
        shift = {1: 250 * 0.05, 5: 250 * 0.12}[severity] * 0.005 * 96
        ours = np.clip(digital.elastic_transform(unit(images), (shift, 0.96, 0), generators(24)), 0, 1)
    np.random.seed(0)
    picture = reference.Image.fromarray(images[0].permute(1, 2, 0).numpy())
    theirs = np.stack([getattr(reference, name)(picture, severity) for _ in range(24)]) / 255
    clean = unit(images)

    def statistics(corrupted: np.ndarray) -> np.ndarray:
        """Mean, deviation, distance and roughness of each image."""
        rough = np.abs(np.diff(corrupted, axis=1)).mean(axis=(1, 2, 3))
        distance = np.abs(corrupted - clean).mean(axis=(1, 2, 3))
        return np.stack([corrupted.mean(axis=(1, 2, 3)), corrupted.std(axis=(1, 2, 3)), distance, rough])

    a, b = statistics(ours), statistics(theirs)
    error = np.sqrt((a.var(axis=1) + b.var(axis=1)) / 24)
    assert (np.abs(a.mean(axis=1) - b.mean(axis=1)) < 4.5 * error + 0.004).all()


def test_elastic_transform_without_strength_is_the_identity_and_keeps_slopes() -> None:
    images = unit(photographs(2, 32, 40))
    np.testing.assert_allclose(digital.elastic_transform(images, (0, 0, 0), generators(2)), images, atol=1e-12)
    # an affine map of a ramp is a ramp, away from the mirrored border
    ramp = np.broadcast_to(np.linspace(0, 1, 40)[:, None], (1, 40, 40, 3)).transpose(0, 2, 1, 3) * 1.0
    moved = digital.elastic_transform(ramp, (0, 0, 2.0), generators(1))[0, 12:28, 12:28, 0]
    assert not np.allclose(moved, ramp[0, 12:28, 12:28, 0], atol=1e-3)
    assert np.abs(np.diff(moved, n=2, axis=0)).max() < 2e-3
    assert np.abs(np.diff(moved, n=2, axis=1)).max() < 2e-3


def test_colours_agree_with_hsv() -> None:
    images = unit(photographs(4, 32, 32))
    images[0, :4] = 0.3  # grey
    images[0, 4:8] = 0  # black
    hsv = matplotlib.colors.rgb_to_hsv(images)
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    bright = np.stack([hue, saturation, np.clip(value + 0.2, 0, 1)], axis=-1)
    np.testing.assert_allclose(weather.brightness(images, 0.2, []), matplotlib.colors.hsv_to_rgb(bright), atol=1e-12)
    vivid = np.stack([hue, np.clip(2 * saturation + 0.1, 0, 1), value], axis=-1)
    np.testing.assert_allclose(digital.saturate(images, (2, 0.1), []), matplotlib.colors.hsv_to_rgb(vivid), atol=1e-12)


def test_glass_walks_pixel_by_pixel() -> None:
    """Against the walk written out for one image, one pixel after the other."""
    images = unit(photographs(2, 12, 14))
    ours = blur.glass_blur(images, (0.7, 2, 2), generators(2))
    for index, rng in enumerate(generators(2)):
        pixels = np.floor(255 * ndimage.gaussian_filter(images[index], (0.7, 0.7, 0), mode="nearest"))
        offsets: Iterator[np.ndarray] = iter(rng.integers(-2, 2, (2, 8, 10, 2), dtype=np.int8).reshape(-1, 2))
        for _ in range(2):
            for row in range(10, 2, -1):
                for column in range(12, 2, -1):
                    across, down = next(offsets)
                    pixels[row, column] = pixels[row + down, column + across]
        expected = ndimage.gaussian_filter(pixels / 255, (0.7, 0.7, 0), mode="nearest")
        np.testing.assert_allclose(ours[index], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("images", "name", "severity", "words"),
    [
        (torch.zeros(2, 3, 32, 32), "fog", 1, "take uint8 images"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), "fog", 1, "got torch.uint8 \\(2, 1, 32, 32\\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "fog", 1, "at least 8x8"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "fogg", 1, "did you mean 'fog'"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "fog", 6, "Severities are 1 to 5"),
    ],
)
def test_bad_input_is_named(images: Tensor, name: str, severity: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        corrupt(images, name, severity)


def test_as_many_indices_as_images(small: Tensor) -> None:
    with pytest.raises(UserError, match="40 images were given with 2 indices"):
        corrupt(small, "fog", 1, indices=[0, 1])
