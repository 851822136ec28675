"""The manifest's schema, and the model cards made from it: what they say, and that what they show runs."""

import shlex
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import ModelCardData
from typer.testing import CliRunner

from tests.snippets import check_answer, run_snippet
from timm_layeract.checkpoints.manifest import CARDS_DIR, check_manifest, find_entry, read_data_sets, read_manifest
from timm_layeract.checkpoints.save import file_sha256
from timm_layeract.cli import app
from timm_layeract.errors import UserError
from timm_layeract.release.cards import card_files, pictures, render_card, render_eval_results, training_command
from timm_layeract.training.recipe import load_recipe

NAME, TWIN = "resnet20_lasilu.cifar10_quick", "resnet20.cifar10_quick"
CORRUPTED = {
    "set": "CIFAR-10-C",
    "report": "robustness/cifar10_c.json",
    "networks": 3,
    "mean": {"clean": 88.0, "total": 61.25, "noise": 50.5},
    "std": {"clean": 0.25, "total": 0.5, "noise": 1.0},
    "comparisons": [{"measure": "total", "against": TWIN, "difference": 2.0, "p_holm": 0.01}],
}


@pytest.fixture
def manifest() -> dict[str, dict[str, Any]]:
    return deepcopy(read_manifest())


def metadata(card: str) -> ModelCardData:
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


def test_the_manifest_follows_its_schema(manifest: dict[str, dict[str, Any]]) -> None:
    check_manifest(manifest)
    manifest[NAME]["hub"] = {"repo": "org/name", "revision": "a" * 40}
    manifest[NAME]["seeds"] = [
        {"seed": seed, "validation": {"top1": 88.0}, "test": {"top1": 88.0}} for seed in (11, 22)
    ]
    manifest[NAME]["added"] = {"anything": 1}
    with pytest.raises(UserError, match=rf"{NAME}: 'added' is not one of its fields"):
        check_manifest(manifest)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("sha256", "abc", "sha256.*'abc' does not match"),
        ("sha256", None, "'sha256' is a required field"),
        ("dtype", "float64", "dtype.*'float64' is none of"),
        ("dtype", None, "'dtype' is a required field"),
        ("activations", {}, "activations"),
        ("date", "today", "date.*'today' does not match"),
        ("test", {"top1": "88 %"}, "test -> top1: '88 %' is not a number"),
        ("hub", {"repo": "org/name", "revision": "main"}, "hub -> revision.*'main' does not match"),
        ("hub", {"repo": "name", "revision": "a" * 40}, "hub -> repo"),
        ("data", {"name": "MNIST"}, "data: 'train_images' is a required field"),
        ("adaptation", {"to": "lasilu"}, "adaptation: 'distill' is a required field"),
    ],
)
def test_a_manifest_that_does_not_is_refused(
    manifest: dict[str, dict[str, Any]], field: str, value: Any, said: str
) -> None:
    manifest[NAME][field] = value
    if value is None:
        del manifest[NAME][field]
    with pytest.raises(UserError, match=rf"{NAME}.*{said}"):
        check_manifest(manifest)


def test_a_data_set_of_which_nothing_is_known_is_refused(manifest: dict[str, dict[str, Any]]) -> None:
    manifest[NAME]["data"]["name"] = "My images"
    with pytest.raises(UserError, match=rf"{NAME}: nothing is known of the data set 'My images'.*datasets\.json"):
        check_manifest(manifest)


def test_a_recipe_may_count_steps(manifest: dict[str, dict[str, Any]]) -> None:
    manifest[NAME]["recipe"].update(epochs=None, steps=64_000)
    check_manifest(manifest)
    assert "It ran for 64,000 steps; epoch" in render_card(NAME, manifest)
    manifest[NAME]["recipe"]["steps"] = None
    with pytest.raises(UserError, match="recipe -> steps"):
        check_manifest(manifest)


def test_finding_an_entry(manifest: dict[str, dict[str, Any]]) -> None:
    for name in manifest:
        assert find_entry(name, manifest) == (name, manifest[name])
        architecture = name.split(".")[0]
        default = timm.get_pretrained_cfg(architecture)  # what timm loads without a tag
        assert default is not None
        assert find_entry(architecture, manifest)[0] == f"{architecture}.{default.tag}"
    with pytest.raises(UserError, match=r"did you mean.*resnet20_lasilu"):
        find_entry("resnet20_lasulu", manifest)


def test_the_cards_are_up_to_date() -> None:
    shown = pictures(read_manifest())
    texts = {path.name: path.read_text() for path in CARDS_DIR.iterdir() if path.name not in shown}
    assert texts == card_files(read_manifest())
    assert {name: file_sha256(CARDS_DIR / name) for name in shown} == shown


def test_data_sets_say_what_cards_need() -> None:
    for name, known in read_data_sets().items():
        assert set(known) == {"hub_id", "test_split", "license", "homepage", "description", "citation"}, name
        assert known["test_split"] in ("test", "validation", "valid")
        assert all(known[key].endswith(".") for key in ("description", "citation"))


@pytest.mark.parametrize("path", sorted(CARDS_DIR.glob("*.md")), ids=lambda path: path.stem)
def test_the_snippet_of_each_card_runs_offline(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_snippet(path.read_text())
    entry = read_manifest()[path.stem]
    check_answer(capsys.readouterr().out, entry, tmp_path)


@pytest.mark.parametrize("name", [NAME, TWIN])
def test_metadata_is_what_the_hub_reads(name: str) -> None:
    entry = read_manifest()[name]
    data = metadata(render_card(name, read_manifest()))
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "apache-2.0")
    assert data.datasets == ["uoft-cs/cifar10"]
    assert data.base_model is None
    (result,) = data.eval_results  # type: ignore[misc]
    assert result.metric_value == pytest.approx(entry["test"]["top1"], abs=0.005)
    assert (result.dataset_name, result.dataset_split) == (entry["data"]["name"], "test")
    (published,) = yaml.safe_load(render_eval_results(name, read_manifest()))
    assert published["dataset"] == {"id": "uoft-cs/cifar10", "task_id": "image-classification"}
    assert published["value"] == result.metric_value
    assert "JPEG" in published["notes"]


def test_the_twin_stands_beside(manifest: dict[str, dict[str, Any]]) -> None:
    score = f"| {TWIN} | ReLU() | {manifest[TWIN]['test']['top1']:.2f} |"
    assert score in render_card(NAME, manifest)
    manifest[TWIN]["recipe"]["epochs"] += 1  # no longer the same training
    assert TWIN not in render_card(NAME, manifest)


def test_what_is_only_sometimes_known(manifest: dict[str, dict[str, Any]]) -> None:
    entry = manifest[NAME]
    manifest = {NAME: entry}
    entry["seeds"] = entry["seeds"][:1]
    entry.pop("corrupted", None)
    plain = render_card(NAME, manifest)
    assert "hf-hub:" not in plain
    assert "Not measured" in plain
    assert "deviation" not in plain
    entry["corrupted"] = CORRUPTED
    entry["seeds"] = [{"seed": seed, "test": {"top1": top1}} for seed, top1 in enumerate((88.0, 89.0, 90.0))]
    entry["hub"] = {"repo": "org/name", "revision": "a" * 40}
    full = render_card(NAME, manifest)
    assert "| network | clean | total | noise |" in full
    assert f"| **{NAME}** | 88.00 ± 0.25 | 61.25 ± 0.50 | 50.50 ± 1.00 |" in full
    assert "over 3 networks of each activation" in full
    assert "| total | **+2.00 (0.010)** |" in full
    assert "89.00 ± 1.00 (3)" in full
    assert 'create_model("hf-hub:org/name", pretrained=True)' in full
    assert "a" * 40 not in full  # the card is part of the revision
    assert 'create_model("hf-hub:new/place", pretrained=True)' in render_card(NAME, manifest, repo="new/place")


@pytest.mark.parametrize(
    ("start", "base"),
    [
        ("resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("hf-hub:org/other@main", "org/other"),
        (TWIN, "org/twin"),
        ("resnet20_silu", None),
    ],
)
def test_fine_tuned_weights_name_where_they_started(
    manifest: dict[str, dict[str, Any]], start: str, base: str | None
) -> None:
    manifest[TWIN]["hub"] = {"repo": "org/twin", "revision": "a" * 40}
    manifest[NAME]["started_from"] = start
    card = render_card(NAME, manifest)
    assert metadata(card).base_model == base
    assert f"layeract finetune -m {start}" in card


def test_adapted_weights_stand_beside_the_original() -> None:
    manifest = read_manifest()
    adapted, start = "resnet20_lasilu.cifar10_adapted", manifest[TWIN]
    card = render_card(adapted, manifest)
    assert f"adapted from `{TWIN}`" in card
    assert f"| {TWIN} | ReLU() | {start['test']['top1']:.2f} | {start['validation']['top1']:.2f} |" in card
    found = manifest[adapted]["adaptation"]["noise"]["corruptions"]["gaussian_noise"]
    before, after = (sum(found[name]) / 5 for name in ("original", "adapted"))
    assert f"| gaussian_noise | {before:.2f} | {after:.2f} | {after - before:+.2f} |" in card
    assert "Not measured" not in card


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 3, "padding": 0, "mixed_precision": "no", "image_size": (48, 40), "seed": 5},
        {"steps": 700, "schedule": "multistep", "milestones": (0.25, 0.5), "progressive_sizes": ((0.5, 16),)},
    ],
)
def test_the_command_repeats_the_recipe_with_all_that_was_changed(
    manifest: dict[str, dict[str, Any]], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_recipe("cifar10_fast", **changes)
    manifest[NAME]["recipe"] = trained.to_dict()
    resolved = []
    monkeypatch.setattr("timm_layeract.training.run.train", lambda model, recipe, *_, **__: resolved.append(recipe))
    command = shlex.split(training_command(NAME, manifest[NAME], "org/data"))
    assert CliRunner().invoke(app, command[1:], catch_exceptions=False).exit_code == 0
    assert command[0] == "layeract"
    assert resolved == [trained]


def test_the_command_of_an_adapted_network_says_how(manifest: dict[str, dict[str, Any]]) -> None:
    how = {"to": "lasilu", "distill": False, "unlabelled": False, "statistics_batches": 60}
    manifest[NAME] |= {
        "started_from": TWIN,
        "adaptation": how,
        "recipe": load_recipe("adapt", epochs=2).replace(name="mine").to_dict(),
    }
    command = training_command(NAME, manifest[NAME], "org/data")
    assert command.startswith(
        f"layeract adapt {TWIN} --to lasilu --no-distill --statistics-batches 60 -d org/data -r mine.yaml --seed 11 "
    )
