"""`layeract list`, `info`, `download`: what there is, and fetching it from a Hub on this machine."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer
from timm_layeract.checkpoints.manifest import WEIGHTS_DIR, read_manifest
from timm_layeract.cli import app
from timm_layeract.errors import UserError
from timm_layeract.release import zoo

NAME = "resnet20_lasilu.cifar10_quick"


@pytest.fixture
def manifest(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The manifest, free to change."""
    known = deepcopy(read_manifest())
    monkeypatch.setattr(zoo, "read_manifest", lambda: known)
    return known


def run(*arguments: str) -> None:
    app(arguments, standalone_mode=False)


def test_list(manifest: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run("list")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(manifest)
    row = next(line for line in lines if line.startswith(NAME))
    entry = manifest[NAME]
    assert row.split() == [
        *(
            NAME,
            "CIFAR-10",
            "(JPEG)",
            f"{entry['test']['top1']:.2f}",
            "%",
            "top-1",
            "0.27",
            "M",
            "1.0",
            "MiB",
            "package",
        )
    ]
    entry["hub"] = {"repo": "org/name", "revision": "a" * 40}
    manifest["resnet20.cifar10_quick"]["file"] = "gone.safetensors"
    run("list", "resnet20.*")
    assert capsys.readouterr().out.splitlines()[1].endswith("missing")
    run("list", "*lasilu*")
    assert "package and Hub" in capsys.readouterr().out
    with pytest.raises(UserError, match="No trained weights match"):
        run("list", "*nothing*")


def test_info(manifest: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    run("info", NAME)
    out = capsys.readouterr().out
    entry = manifest[NAME]
    for said in (
        f'timm.create_model("{NAME}", pretrained=True)',
        f"test:           {entry['test']['top1']:.2f} % top-1\n",
        entry["sha256"],
        "LASiLU(alpha=1e-05)",
        "(3, 32, 32)",
        "10: airplane, automobile",
        "cifar10_quick, 12 epochs, seed 11",
        f"corrupted:      {entry['corrupted']['mean']['total']:.2f} % top-1 on 10,000 images of CIFAR-10 (JPEG)",
    ):
        assert said in out
    with pytest.raises(UserError, match="did you mean"):
        run("info", "resnet20_lasil")


def test_download(
    manifest: dict[str, dict[str, Any]], hub: HubServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    embedded = WEIGHTS_DIR / f"{NAME}.safetensors"
    run("download", NAME)
    assert capsys.readouterr().out.strip() == str(embedded)
    assert hub.calls == []
    revision = hub.add("org/name", {"model.safetensors": embedded.read_bytes()})
    manifest[NAME].update(file="gone.safetensors", hub={"repo": "org/name", "revision": revision})
    run("download", NAME)
    path = Path(capsys.readouterr().out.strip())
    assert path.is_relative_to(tmp_path)
    assert revision in path.parts
    assert path.read_bytes() == embedded.read_bytes()
    manifest[NAME]["sha256"] = "0" * 64
    with pytest.raises(UserError, match="is not the file that was published"):
        run("download", NAME)
    del manifest[NAME]["hub"]
    with pytest.raises(UserError, match="There is no weight file"):
        run("download", NAME)
