"""Reading from an independent Hub server: olah, which serves git repositories of this machine under the Hub's API.

It brings its own dependencies, so `make test` gives it an environment of its own; elsewhere OLAH names its program.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file

from tests.damage import one_bit
from tests.hub_server import point_to
from timm_layeract.checkpoints.manifest import WEIGHTS_DIR, read_manifest
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.release.shipped import golden_file
from timm_layeract.release.stage import stage, staged_files

NAME, REPO = "resnet20_lasilu.cifar10", "org/resnet20_lasilu"
PROGRAM = shutil.which(os.environ.get("OLAH", Path(sys.prefix) / "olah" / "bin" / "olah-cli"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="olah is not installed: `make test` does, or set OLAH to its program"),
]


@dataclass
class Olah:
    """A running server and the folder of what it serves."""

    url: str
    port: int
    root: Path

    def commit(self, kind: str, repo: str, files: Path) -> str:
        """Put a folder's files into a repository, as a new commit; returns its id."""
        target = self.root / kind / repo
        shutil.copytree(files, target, dirs_exist_ok=True)
        author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        for command in (["init", "-q", "-b", "main"], ["add", "-A"], [*author, "commit", "-q", "-m", "files"]):
            subprocess.run(["git", *command], cwd=target, check=True)
        return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=target, text=True).strip()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def olah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Olah]:
    folder, port = tmp_path_factory.mktemp("olah"), free_port()
    (folder / "mirrors").mkdir()
    config = folder / "olah.toml"
    config.write_text(f'[basic]\nmirrors-path = ["{folder / "mirrors"}"]\n[accessibility]\noffline = true\n')
    places = ["--repos-path", folder / "cache", "--log-path", folder / "logs"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "output").open("w") as output:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        server = subprocess.Popen(
            [PROGRAM, "--config", config, *address, *places],
            cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        for _ in range(600):
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                break
            assert server.poll() is None, (folder / "output").read_text()
            time.sleep(0.1)
        yield Olah(f"http://127.0.0.1:{port}", port, folder / "mirrors")
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def repository(olah: Olah, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The embedded network as it would be published, served; its first commit."""
    point_to(monkeypatch, olah.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    stage(NAME, read_manifest(), REPO, tmp_path / "staged", WEIGHTS_DIR)
    yield olah.commit("models", REPO, tmp_path / "staged")
    shutil.rmtree(olah.root / "models" / REPO)


def assert_golden(name: str) -> None:
    golden = load_file(golden_file(NAME))
    with torch.inference_mode():
        output = timm.create_model(name, pretrained=True).eval()(golden["input"])
    torch.testing.assert_close(output, golden["output"], rtol=1e-4, atol=1e-4)


def test_listing_and_loading(olah: Olah, repository: str, tmp_path: Path) -> None:
    info = HfApi().model_info(REPO, revision="main")
    assert info.sha == repository
    assert sorted(sibling.rfilename for sibling in info.siblings or []) == staged_files(tmp_path / "staged")
    assert_golden(f"hf-hub:{REPO}")


def test_offline_the_cache_serves(repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_golden(f"hf-hub:{REPO}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_golden(f"hf-hub:{REPO}")


def test_a_pinned_revision_stays_when_the_repository_is_tampered_with(
    olah: Olah, repository: str, tmp_path: Path
) -> None:
    one_bit(tmp_path / "staged" / "model.safetensors")
    assert olah.commit("models", REPO, tmp_path / "staged") != repository
    with pytest.raises(UserError, match="is not the file that was published"):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True)
    assert_golden(f"hf-hub:{REPO}@{repository}")


def test_smps_networks(olah: Olah, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed, loaded, from the cache too; tampered weights refused; the pinned revision stays."""
    point_to(monkeypatch, olah.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repo, folder = "org/smp", tmp_path / "saved"
    options = dict(encoder_depth=3, decoder_channels=(32, 16, 16), encoder_weights=None)
    model = smp.create_model("unet_lasilu", "tu-test_resnet", **options).eval()
    model.save_pretrained(folder)
    images = torch.randn(1, 3, 32, 32)

    def assert_same(**where: str) -> None:
        with torch.inference_mode():
            assert torch.equal(smp.from_pretrained(repo, **where)(images), model(images))

    first = olah.commit("models", repo, folder)
    info = HfApi().model_info(repo, revision="main")
    assert {sibling.rfilename for sibling in info.siblings or []} == {path.name for path in folder.iterdir()}
    assert_same()
    one_bit(folder / "model.safetensors")
    olah.commit("models", repo, folder)
    with pytest.raises(UserError, match="is not the file that was published"):
        smp.from_pretrained(repo)
    assert_same(revision=first)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(revision=first)


class CuttingProxy(threading.Thread):
    """Hands bytes on to a port, and closes the first connection that brings more than `limit` back."""

    def __init__(self, port: int, limit: int) -> None:
        super().__init__(daemon=True)
        self.target, self.limit, self.cuts, self.sent = port, limit, 0, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        with suppress(OSError):  # until the listener is closed
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with closing(client), closing(socket.create_connection(("127.0.0.1", self.target))) as server:
            threading.Thread(target=self.hand_up, args=(client, server), daemon=True).start()
            count = 0
            with suppress(OSError):
                while data := server.recv(65536):
                    count += len(data)
                    if count > self.limit and not self.cuts:
                        self.cuts += 1
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(data)

    def hand_up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self.sent += data
                server.sendall(data)


def test_a_cut_download_is_resumed(olah: Olah, repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = CuttingProxy(olah.port, limit=500_000)
    proxy.start()
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # what is written at once
    point_to(monkeypatch, f"http://127.0.0.1:{proxy.port}")
    with closing(proxy.listener):
        assert_golden(f"hf-hub:{REPO}")
    assert proxy.cuts == 1
    assert b"range: bytes=" in proxy.sent.lower()


def train_from(olah: Olah, name: str, rows: datasets.Dataset, tmp_path: Path, *options: str) -> Path:
    """Serve rows as a data set, train by its id on 120 of them and test on 40; returns the run's folder."""
    (tmp_path / "files" / "data").mkdir(parents=True)
    for split, part in (("train", rows.select(range(120))), ("test", rows.select(range(120, 160)))):
        part.to_parquet(tmp_path / "files" / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "files" / "README.md").write_text(f"# {name}\n")
    olah.commit("datasets", f"org/{name}", tmp_path / "files")
    command = ["train", "-d", f"org/{name}", "--epochs", "1", "-o", "run", *options]
    environment = {
        **os.environ,
        "HF_ENDPOINT": olah.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "timm_layeract.cli", *command],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]["images"] == 40
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    return tmp_path / "run"


def test_a_data_set_served_by_it_trains(olah: Olah, digits: ImageSplit, tmp_path: Path) -> None:
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=list(digits.classes)))
    pictures = [image.permute(1, 2, 0).numpy() for image in digits.images]
    rows = datasets.Dataset.from_dict({"img": pictures, "label": digits.labels.tolist()}, features=features)
    train_from(olah, "digits", rows, tmp_path, "-m", "resnet20_lasilu", "-r", "finetune")


def test_so_do_texts(olah: Olah, tmp_path: Path) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    columns = {
        "text": [f"a {('bad', 'fine')[i % 2]} film {i}" for i in range(160)],
        "label": [i % 2 for i in range(160)],
    }
    rows = datasets.Dataset.from_dict(columns, features=features)
    options = ["-m", "textrcnn_nrelu", "--task", "text", "--batch-size", "20"]
    assert (train_from(olah, "reviews", rows, tmp_path, *options) / "model" / "tokenizer.json").is_file()
