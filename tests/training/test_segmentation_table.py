"""The script that repeats the paper's table of segmentation networks from results."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from scripts import segmentation_table
from timm_layeract._utils.files import surroundings
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.sweep import PlannedRun


def result(folder: Path, model: str, iou: float, seed: int, epochs: int = 20) -> None:
    folder.mkdir(parents=True)
    figures = {"validation": {"iou": iou - 1}, "test": {"iou": iou}, "best_epoch": 1}
    values = {
        "model": model,
        "activations": {"act": model},
        "started_from": None,
        "recipe": {**load_recipe("segmentation_short", epochs=epochs, seed=seed).to_dict(), "name": "short"},
        "data": {
            **{"name": "nuclei", "train_images": 500, "validation_images": 31, "test_images": 66},
            **{"train_sha256": "0" * 64, "test_sha256": "1" * 64},
        },
        "monitor": "iou",
        "processes": 1,
        **figures,
    }
    (folder / "result.json").write_text(json.dumps(values))
    (folder / "environment.json").write_text(json.dumps({"train_seconds": 1, "threads": 1, **surroundings("cpu", ())}))


def run(*arguments: object) -> Result:
    app = Typer()
    app.command()(segmentation_table.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    for seed, iou in enumerate((80.0, 82.0, 84.0)):
        result(tmp_path / f"a{seed}", "unet_nobn_lasilu", iou, seed)
    result(tmp_path / "b", "unetplusplus_dsv_nobn", 70.125, 1)
    lines = run(tmp_path).stdout.splitlines()
    assert lines[2] == "| ReLU | - | - | 70.12 (1) |"
    assert lines[4] == "| LA-SiLU | 82.00 ± 2.00 (3) | - | - |"
    assert "Recipe `short`, 20 epochs, on nuclei: 500 to train on, 31 held out, 66 to test on." in lines[-1]
    assert len(json.loads((tmp_path / "table14.json").read_text())["models"]) == 2


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    refused = run(tmp_path)
    assert (refused.exit_code, "no finished run; give --data" in refused.stderr) == (2, True)
    result(tmp_path / "a", "unet_nobn", 80.0, 1)
    result(tmp_path / "b", "unet_nobn", 80.0, 2, epochs=30)
    refused = run(tmp_path, "--output", tmp_path / "t.json")
    assert (refused.exit_code, "its recipe.epochs is 30, not 20" in refused.stderr) == (2, True)
    assert not (tmp_path / "t.json").exists()


def test_what_is_missing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def sweep(runs: list[PlannedRun]) -> None:
        seeds = sorted({run.recipe.seed for run in runs})
        asked.append((len({run.start for run in runs}), seeds, runs[0].data))
        result(runs[0].folder.with_name("a"), runs[0].start.name, 80.0, 11)

    monkeypatch.setattr(segmentation_table, "sweep", sweep)
    done = run(tmp_path, "--data", "org/nuclei", "--seeds", "2")
    assert (done.exit_code, asked) == (0, [(9, [11, 22], "org/nuclei")])
    assert "| ReLU | 80.00 (1) | - | - |" in done.stdout
