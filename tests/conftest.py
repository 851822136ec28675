"""What every test shares: one thread a process, no network, Triton interpreted, and small real images."""

import os

# before anything imports huggingface_hub or datasets
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
# before triton is imported: its kernels then run on CPU tensors
os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.hub_server import HubServer, point_to, running
from timm_layeract import kernels
from timm_layeract.data.sources import ImageSplit
from timm_layeract.kernels import cpu
from timm_layeract.kernels.triton import shapes

torch.set_num_threads(1)

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def first_digits() -> ImageSplit:
    """scikit-learn's 8x8 digits (real scans), 600 of them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (torch.from_numpy(data.images[:600]) * (255 / 16)).to(torch.uint8)
    labels = torch.from_numpy(data.target[:600]).long()
    return ImageSplit(images[:, None].expand(-1, 3, -1, -1).contiguous(), labels, tuple("0123456789"))


@pytest.fixture(scope="session")
def digits() -> ImageSplit:
    """As `first_digits`."""
    return first_digits()


def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors for the Triton interpreter, under which programs take turns and an operation costs its call."""
    for name, value in {"PROGRAMS": 8, "LONG": (64, 512), "SQUARE": (512, 128)}.items():
        monkeypatch.setattr(shapes, name, value)
    shapes._tiles.cache_clear()


@pytest.fixture(params=["cpu", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One fused backend after the other, forced."""
    few_programs(monkeypatch)
    if request.param == "cpu" and not cpu.available():
        pytest.skip("the CPU kernels were not built: no C compiler where the package was installed")
    with kernels.use_backend(request.param):
        yield request.param


@pytest.fixture
def cifar10() -> Path:
    """Folder of the real CIFAR-10 (JPEG), or a skip that says so."""
    return shared_data("cifar10", "CIFAR-10")


@pytest.fixture
def nuclei() -> Path:
    """Folder of the real nuclei with masks, or a skip that says so."""
    return shared_data("nuclei", "nuclei")


def shared_data(name: str, called: str) -> Path:
    """A folder of real data, or a skip."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {called} in {folder.parent.name}/{folder.name}")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub on 127.0.0.1 that huggingface_hub talks to, with an empty cache."""
    with running(HubServer()) as server:
        point_to(monkeypatch, server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield server
