"""Finished runs become weights that ship with the package; unfinished or differing runs are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from timm_layeract.checkpoints.manifest import over_seeds, read_manifest, write_manifest
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.release.embed import embed_runs
from timm_layeract.training import run
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe


@pytest.fixture(scope="module")
def runs(digits: ImageSplit, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one training."""
    folders = []
    for seed in (11, 22):
        recipe = Recipe(name="tiny", epochs=1, batch_size=32, image_size=(8, 8), seed=seed)
        folders.append(tmp_path_factory.mktemp("runs") / f"seed{seed}")
        torch.manual_seed(seed)
        run.train_on(
            timm.create_model("resnet20_lasilu"), recipe, digits.take(torch.arange(150)),
            digits.take(torch.arange(150, 200)), folders[-1], data_name="digits",
            execution=Execution(progress=False, report=lambda _: None),
        )  # fmt: skip
    return folders


def test_the_first_runs_weights_and_all_results_are_kept(runs: list[Path], tmp_path: Path) -> None:
    assert embed_runs(runs, "digits", tmp_path) == "resnet20_lasilu.digits"
    entry = read_manifest(tmp_path)["resnet20_lasilu.digits"]
    trained = load_file(runs[0] / "model" / "model.safetensors")
    kept = load_file(tmp_path / entry["file"])
    assert all(torch.equal(kept[key], value) for key, value in trained.items())
    results = [json.loads((folder / "result.json").read_text()) for folder in runs]
    assert [seed["seed"] for seed in entry["seeds"]] == [11, 22]
    assert [seed["test"] for seed in entry["seeds"]] == [result["test"] for result in results]
    assert entry["test"] == results[0]["test"]
    assert entry["pretrained_cfg"]["label_names"] == list("0123456789")
    assert json.loads((tmp_path / entry["results"] / "seed22.json").read_text()) == results[1]


def test_what_was_found_out_later_stays_with_the_weights(runs: list[Path], tmp_path: Path) -> None:
    name = embed_runs(runs[:1], "digits", tmp_path)
    manifest = read_manifest(tmp_path)
    measured: dict[str, Any] = {"mean": {"clean": 80.0, "total": 60.0}, "std": None, "comparisons": []}
    corrupted = {"set": "digits", "report": "robustness/digits.json", "networks": 1, **measured}
    pinned = {"repo": "org/name", "revision": "a" * 40}
    manifest[name] |= {"hub": pinned, "corrupted": corrupted}
    write_manifest(manifest, tmp_path)
    embed_runs(runs, "digits", tmp_path)  # more seeds, the same weights
    entry = read_manifest(tmp_path)[name]
    assert (entry["hub"], entry["corrupted"], len(entry["seeds"])) == (pinned, corrupted, 2)
    embed_runs(runs[1:], "digits", tmp_path)
    assert not {"hub", "corrupted"} & set(read_manifest(tmp_path)[name])


def test_mean_and_deviation_over_seeds() -> None:
    assert over_seeds({"seeds": [{"test": {"top1": value}} for value in (86.0, 87.0, 88.0)]}) == "87.00 ± 1.00 (3)"
    assert over_seeds({"seeds": [{"test": {"top1": 86.0}}]}) is None
    assert over_seeds({}) is None


def test_refusals(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    result = json.loads((other / "result.json").read_text())
    result["recipe"]["lr"] = 0.7
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"is not .* with another seed: its recipe.lr is 0.7, not 0.1"):
        embed_runs([runs[0], other], "digits", tmp_path / "weights")
    with pytest.raises(UserError, match="same seed: 11, 11"):
        embed_runs([runs[0], runs[0]], "digits", tmp_path / "weights")
    (other / "result.json").unlink()
    with pytest.raises(UserError, match=r"not a finished run: it has no result.json"):
        embed_runs([other], "digits", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
