"""The script that repeats the paper's table of segmentation networks from results."""

import json
from pathlib import Path

import pytest

from scripts import segmentation_table
from timm_layeract.errors import UserError


def result(folder: Path, model: str, iou: float, seed: int, epochs: int = 20) -> None:
    folder.mkdir(parents=True)
    recipe = {"name": "segmentation_paper", "epochs": epochs, "seed": seed}
    data = {"name": "nuclei", "test_images": 66, "train_sha256": "ab"}
    (folder / "result.json").write_text(json.dumps(dict(model=model, recipe=recipe, data=data, test={"iou": iou})))


def test_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    for seed, iou in enumerate((80.0, 82.0, 84.0)):
        result(tmp_path / f"a{seed}", "unet_nobn_lasilu", iou, seed)
    result(tmp_path / "b", "unetplusplus_dsv_nobn", 70.125, 1)
    lines = segmentation_table.table(segmentation_table.read_results(tmp_path)).splitlines()
    assert lines[2] == "| ReLU | - | - | 70.12 (1) |"
    assert lines[4] == "| LA-SiLU | 82.00 ± 2.00 (3) | - | - |"
    assert "66 images of nuclei; recipe `segmentation_paper`, 20 epochs" in lines[-1]


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        segmentation_table.read_results(tmp_path)
    result(tmp_path / "a", "unet_nobn", 80.0, 1)
    result(tmp_path / "b", "unet_nobn", 80.0, 2, epochs=30)
    with pytest.raises(UserError, match=r"its recipe\.epochs is 30, not 20"):
        segmentation_table.read_results(tmp_path)
