"""Damaged files, at random but always the same: refused in one line, never another exception or another network."""

import importlib.util
import json
import random
import shutil
import struct
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from timm_layeract import save_pretrained
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.checkpoints.load import check_weights
from timm_layeract.checkpoints.manifest import WEIGHTS_DIR, check_manifest, read_manifest
from timm_layeract.checkpoints.save import file_sha256, stored_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.release.cards import card_files, pictures
from timm_layeract.release.convert import convert
from timm_layeract.release.shipped import golden_file

ROOT = Path(__file__).parents[2]
NAME = "resnet20_lasilu.cifar10"


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    # in the header as often as in the data
    place = rng.randrange(min(len(content), rng.choice((16, 4000, len(content)))))
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(min(len(content), 4000))
    return content[:place] + rng.randbytes(rng.randint(1, 40)) + content[place:]


def blank(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes(min(64, len(content) - place)) + content[place + 64 :]


def append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randint(1, 100))


def lengthen(content: bytes, rng: random.Random) -> bytes:
    """Another length of the header than it has."""
    return struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, rng.randrange(2**20)))) + content[8:]


DAMAGES = [truncate, flip, insert, blank, append, lengthen]
Damage = Callable[[bytes, random.Random], bytes]


def damaged(content: bytes, damage: Damage, times: int) -> list[bytes]:
    """The same damages in every run, without those that change nothing."""
    rng = random.Random(damage.__name__)
    return [result for result in (damage(content, rng) for _ in range(times)) if result != content]


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_of_a_known_hash(damage: Damage, tmp_path: Path) -> None:
    content = (WEIGHTS_DIR / f"{NAME}.safetensors").read_bytes()
    expected = read_manifest()[NAME]["sha256"]
    path = tmp_path / "model.safetensors"
    for broken in damaged(content, damage, 40):
        path.write_bytes(broken)
        with pytest.raises(UserError):
            check_weights(path, expected)


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_of_no_known_hash(damage: Damage, tmp_path: Path) -> None:
    """A name of a tensor that changed is timm's to refuse; a value that changed cannot be seen."""
    path = tmp_path / "alone.safetensors"
    model = timm.create_model("resnet20_lasilu")
    wanted = activation_fingerprint(model)
    for broken in damaged((WEIGHTS_DIR / f"{NAME}.safetensors").read_bytes(), damage, 12):
        path.write_bytes(broken)
        try:
            check_weights(path)
            assert stored_fingerprint(path) in (wanted, None) or damage is not truncate
            model = timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
        except (UserError, RuntimeError):
            continue
        assert activation_fingerprint(model) == wanted
        assert load_file(path).keys() == model.state_dict().keys()


JUNK: list[Any] = [None, True, -1, 1.5, "", "resnet20", [], ["x"], {}, {"x": "y"}, "\u0000", 10**30]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def mutated(tree: Any, rng: random.Random, within: tuple[Any, ...] = ()) -> Any:
    """A copy with one value, somewhere below `within`, replaced or gone."""
    tree = deepcopy(tree)
    *parents, last = rng.choice([place for place in places(tree) if place[: len(within)] == within and place])
    node = tree
    for key in parents:
        node = node[key]
    if rng.random() < 0.3:
        del node[last]
    else:
        node[last] = rng.choice(JUNK)
    return tree


def test_a_manifest_that_passes_its_check_can_be_shown() -> None:
    rng, refused = random.Random(0), 0
    for _ in range(150):
        manifest = mutated(read_manifest(), rng)
        try:
            check_manifest(manifest)
        except UserError:
            refused += 1
            continue
        assert {f"{name}.md" for name in manifest} <= set(card_files(manifest))
    assert 40 < refused < 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "folder"
    save_pretrained(timm.create_model(NAME, pretrained=True), path)
    return path


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(load_file(golden_file(NAME))["input"])


@pytest.mark.parametrize(
    "within", [("model_args", "activations"), ("architecture",), ("weights_sha256",), ("model_args",)]
)
def test_a_changed_config_is_refused_or_changes_nothing(folder: Path, tmp_path: Path, within: tuple[str, ...]) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    wanted = logits(timm.create_model(NAME, pretrained=True))
    rng = random.Random(str(within))
    for _ in range(15):
        (copy / "config.json").write_text(json.dumps(mutated(config, rng, within)))
        try:
            model = timm.create_model(f"local-dir:{copy}", pretrained=True)
        except (
            ValueError,
            RuntimeError,
            KeyError,
            TypeError,
            AttributeError,
            AssertionError,
        ):  # timm reads the file first
            continue
        torch.testing.assert_close(logits(model), wanted)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_config_is_refused_or_changes_nothing(folder: Path, tmp_path: Path, damage: Damage) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for broken in damaged((folder / "config.json").read_bytes(), damage, 15):
        (copy / "config.json").write_bytes(broken)
        with pytest.raises(UserError):  # the same, read by us
            check_weights(copy / "model.safetensors", "0" * 64)
        try:
            model = timm.create_model(f"local-dir:{copy}", pretrained=True)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError):
            continue
        assert set(activation_fingerprint(model).values()) == {"LASiLU(alpha=1e-05)"}


@pytest.fixture(scope="module")
def smp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "smp"
    torch.manual_seed(0)
    options: dict[str, Any] = dict(encoder_depth=3, decoder_channels=(32, 16, 16), encoder_weights=None)
    smp.create_model("unet_lasilu", "tu-test_resnet", **options).save_pretrained(path)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_of_smps_networks(smp_folder: Path, tmp_path: Path, damage: Damage) -> None:
    copy = Path(shutil.copytree(smp_folder, tmp_path / "copy"))
    for broken in damaged((smp_folder / "model.safetensors").read_bytes(), damage, 10):
        (copy / "model.safetensors").write_bytes(broken)
        with pytest.raises(UserError):
            smp.from_pretrained(str(copy))


@pytest.mark.filterwarnings("ignore:(?s).*Mismatched keys:UserWarning")  # SMP says so, then refuses
@pytest.mark.parametrize("damage", [*DAMAGES, None])
def test_a_changed_config_of_smps_networks_is_refused_or_changes_nothing(
    smp_folder: Path, tmp_path: Path, damage: Damage | None
) -> None:
    copy = Path(shutil.copytree(smp_folder, tmp_path / "copy"))
    content = (smp_folder / "config.json").read_bytes()
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = smp.from_pretrained(str(smp_folder))(images)
    rng = random.Random(0)
    changes = [json.dumps(mutated(json.loads(content), rng)).encode() for _ in range(25)]
    for broken in damaged(content, damage, 12) if damage else changes:
        (copy / "config.json").write_bytes(broken)
        try:
            with torch.inference_mode():
                output = smp.from_pretrained(str(copy))(images)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError):  # SMP reads the file first
            continue
        torch.testing.assert_close(output, wanted)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_of_others(damage: Damage, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)}}, path)
    for broken in damaged(path.read_bytes(), damage, 15):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"cannot be read|does not fit|no state dict|NaN or infinity"):
            convert(path, "resnet20", tmp_path / "out", "timm")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cards_are_stale(damage: Damage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("cards", ROOT / "scripts" / "cards.py")
    script = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(script)  # type: ignore[union-attr]
    monkeypatch.setattr(script, "FOLDER", Path(shutil.copytree(ROOT / "hub_cards", tmp_path / "cards")))
    monkeypatch.setattr("sys.argv", ["cards.py", "--check"])
    path = tmp_path / "cards" / f"{NAME}.md"
    whole = path.read_bytes()
    for broken in damaged(whole, damage, 10):
        path.write_bytes(broken)
        with pytest.raises(SystemExit, match=rf"hub_cards/ is stale \({NAME}\.md\): run `make cards`"):
            script.main()
    path.write_bytes(whole)
    (path.parent / "left over.md").touch()
    with pytest.raises(SystemExit, match="left over"):
        script.main()
    monkeypatch.setattr("sys.argv", ["cards.py"])
    script.main()
    assert {path.name for path in path.parent.iterdir()} == {*card_files(read_manifest()), *pictures(read_manifest())}
    assert file_sha256(path) == file_sha256(ROOT / "hub_cards" / path.name)
