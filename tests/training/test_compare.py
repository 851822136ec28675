"""Results of several models side by side: `layeract compare`, and the README's table of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from typer.testing import CliRunner

from timm_layeract.cli import app
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.training import run
from timm_layeract.training.compare import compare_runs, comparison_table
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe

SCORES = {("resnet20", 11): 81.25, ("resnet20", 22): 83.0, ("resnet20", 33): 84.5, ("resnet20_nrelu", 11): 90.125}


@pytest.fixture(scope="module")
def runs(digits: ImageSplit, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A real run, and what others of another seed or activation would have left."""
    first = tmp_path_factory.mktemp("runs") / "first"
    recipe = Recipe(name="tiny", epochs=1, batch_size=32, image_size=(8, 8))
    run.train_on(
        timm.create_model("resnet20"), recipe, digits.take(torch.arange(100)), digits.take(torch.arange(100, 140)),
        first, data_name="digits", execution=Execution(progress=False, report=lambda _: None),
    )  # fmt: skip
    folders = []
    for (model, seed), score in SCORES.items():
        folders.append(first.with_name(f"{model}.seed{seed}"))
        shutil.copytree(first, folders[-1])
        change(folders[-1], model=model, recipe={"seed": seed}, test={"top1": score})
    return folders


def change(folder: Path, **changes: object) -> None:
    result = json.loads((folder / "result.json").read_text())
    for key, value in changes.items():
        result[key] = {**result[key], **value} if isinstance(value, dict) else value
    (folder / "result.json").write_text(json.dumps(result))


def test_means_and_deviations_over_seeds(runs: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "results" / "tiny.json"
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "-o", str(output)], catch_exceptions=False)
    assert done.exit_code == 0
    head, _, plain, normalized, _, provenance = done.output.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["model", "test top-1, %", "held out, %", "seeds"]
    scores = [score for (model, _), score in SCORES.items() if model == "resnet20"]
    assert f"| `resnet20` | {np.mean(scores):.2f} ± {np.std(scores, ddof=1):.2f} |" in plain
    assert plain.endswith("| 11, 22, 33 |")
    assert "| `resnet20_nrelu` | 90.12 |" in normalized
    assert "Recipe `tiny`, 1 epochs, on digits: 90 to train on, 10 held out, 40 to test on." in provenance
    assert "One seed says nothing" in provenance

    written = json.loads(output.read_text())
    assert "seed" not in written["recipe"]
    assert written["data"]["test_images"] == 40
    result = json.loads((runs[1] / "result.json").read_text())
    second = written["models"][0]["runs"][1]
    assert {key: second[key] for key in ("best_epoch", "validation", "test")} == {
        key: result[key] for key in ("best_epoch", "validation", "test")
    }
    assert second["versions"]["timm"] == timm.__version__


def test_a_start_from_weights_stands_beside_one_from_scratch(runs: list[Path], tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(runs[0], tuned)
    change(tuned, started_from="resnet20.cifar10_quick", test={"top1": 95.0})
    table = comparison_table(compare_runs([runs[0], tuned], tmp_path / "results.json"))
    assert [line.split("|")[1:3] for line in table.splitlines()[2:]] == [
        [" `resnet20` ", " 81.25 "],
        [" `resnet20` from `resnet20.cifar10_quick` ", " 95.00 "],
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": {"lr": 0.7}}, r"with another seed and model: its recipe\.lr is 0\.7, not 0\.1"),
        ({"data": {"train_sha256": "0" * 64}}, r"its data\.train_sha256 is 0"),
        ({"processes": 2}, "its processes is 2, not 1"),
        ({"recipe": {"seed": 11}, "model": "resnet20"}, "Two of these runs train resnet20 with seed 11"),
        ({"model": "resnet20", "activations": {"act1": "SiLU()"}}, "like another run, but has other activations"),
        ({"test": None}, "has no test figures"),
    ],
)
def test_runs_that_cannot_be_compared(runs: list[Path], tmp_path: Path, changes: dict, words: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[3], other)
    change(other, **changes)
    with pytest.raises(UserError, match=words):
        compare_runs([*runs[:3], other], tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_a_run_that_goes_on_is_refused(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("result.json"))
    with pytest.raises(UserError, match="is not a finished run"):
        compare_runs([tmp_path / "run"], tmp_path / "results.json")
