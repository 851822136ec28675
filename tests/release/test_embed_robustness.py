"""Robustness results that ship: of which weights they are, and how they come into the manifest and onto cards."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from timm_layeract.checkpoints.manifest import ROBUSTNESS, WEIGHTS_DIR, check_manifest, read_manifest
from timm_layeract.errors import UserError
from timm_layeract.networks import load_networks
from timm_layeract.release.cards import render_card
from timm_layeract.release.embed_robustness import embed_robustness
from timm_layeract.robustness.corruptions.constants import CORRUPTIONS
from timm_layeract.robustness.measure import means_of, over_seeds

REPORTS = sorted((WEIGHTS_DIR / ROBUSTNESS).glob("*.json"))


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.stem)
def test_a_published_result_is_of_the_embedded_weights(report: Path) -> None:
    result, manifest = json.loads(report.read_text()), read_manifest()
    assert result["data"]["name"] == "CIFAR-10 (JPEG)"
    assert list(result["sets"]) == list(CORRUPTIONS)
    for model in result["models"]:
        entry = manifest[model["name"]]
        assert entry["data"]["test_sha256"] == result["data"]["sha256"]
        assert model["runs"][0]["clean"] == pytest.approx(entry["test"]["top1"], abs=0.2)  # measured in bfloat16
        assert model["runs"][0]["sha256"] == load_networks([model["name"]])[0].sha256
        assert entry["corrupted"]["report"] == str(report.relative_to(WEIGHTS_DIR))
        assert entry["corrupted"]["mean"] == model["mean"]


def test_published_figures_are_of_all_seeds() -> None:
    """The manifest's mean, deviation and tests, from the accuracies in the report by other code."""
    found, expected, manifest = 0, 0, read_manifest()
    for report in REPORTS:
        models = {
            model["name"]: np.array([[*run["accuracy"].values()] for run in model["runs"]]).mean(axis=(1, 2))
            for model in json.loads(report.read_text())["models"]
        }
        several = min(len(totals) for totals in models.values()) > 2
        expected += len(models) * (len(models) - 1) if several else 0
        for name, totals in models.items():
            corrupted = manifest[name]["corrupted"]
            assert corrupted["networks"] == len(totals)
            assert corrupted["mean"]["total"] == pytest.approx(totals.mean())
            assert corrupted["std"] is None if len(totals) == 1 else True
            if corrupted["std"]:
                assert corrupted["std"]["total"] == pytest.approx(totals.std(ddof=1))
            for row in corrupted["comparisons"]:
                if row["measure"] == "total":
                    found += 1
                    other = models[row["against"]]
                    assert row["difference"] == pytest.approx((totals - other).mean())
                    if row["test"] == "paired t-test":
                        assert row["p"] == pytest.approx(stats.ttest_rel(totals, other).pvalue)
    assert found == expected  # each of the networks that were trained with three seeds or more, against the others


def of_one_seed() -> dict[str, Any]:
    """The published result of the two networks that ship, of the seed that ships."""
    result: dict[str, Any] = json.loads((WEIGHTS_DIR / ROBUSTNESS / "cifar10_quick.json").read_text())
    for model in result["models"]:
        model["runs"] = model["runs"][:1]
        model |= over_seeds(model["runs"])
    return result


def test_embedding_a_result_for_the_cards(tmp_path: Path) -> None:
    name, twin = "resnet20_lasilu.cifar10_quick", "resnet20.cifar10_quick"
    shutil.copy(WEIGHTS_DIR / "manifest.json", tmp_path)
    source = tmp_path / "measured.json"
    published = of_one_seed()
    result = deepcopy(published)
    result["models"][1]["mean"]["total"] = 12.5  # not what is there already
    result["models"][1]["name"] = "runs/mine"  # found by its weights
    result["baseline"] = None

    def embed() -> list[str]:
        source.write_text(json.dumps(result))
        return embed_robustness(source, tmp_path)

    assert embed() == [twin, name]
    corrupted = read_manifest(tmp_path)[name]["corrupted"]
    assert corrupted["mean"] == {**published["models"][1]["mean"], "total": 12.5}
    assert (corrupted["networks"], corrupted["std"], corrupted["comparisons"]) == (1, None, [])
    assert corrupted["set"].startswith("10,000 images of CIFAR-10 (JPEG), corruptions regenerated")
    shipped = json.loads((tmp_path / corrupted["report"]).read_text())
    assert [model["name"] for model in shipped["models"]] == [twin, name]
    assert shipped["models"][1]["runs"] == published["models"][1]["runs"]
    card = render_card(name, read_manifest(tmp_path))
    assert "| network | clean | common | total | noise | blur | weather | digital | extra |" in card
    clean, common = (published["models"][1]["mean"][key] for key in ("clean", "common"))
    assert f"| **{name}** | {clean:.2f} | {common:.2f} | 12.50 | " in card
    assert "paired tests" not in card
    before = (tmp_path / "manifest.json").read_bytes()
    result["data"]["sha256"] = "0" * 64
    with pytest.raises(UserError, match="other images than"):
        embed()
    result["data"]["sha256"] = read_manifest()[name]["data"]["test_sha256"]
    other = load_networks(["resnet20_lasilu.cifar10"])[0].sha256
    result["models"][1]["runs"][0]["sha256"] = other
    with pytest.raises(UserError, match="tagged cifar10 and cifar10_quick; measure those with one tag"):
        embed()
    result["models"][1]["runs"][0]["sha256"] = "0" * 64
    with pytest.raises(UserError, match="no run of runs/mine has weights that are embedded"):
        embed()
    del result["models"]
    with pytest.raises(UserError, match=r"measured\.json, the top level: 'models' is a required field"):
        embed()
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_embedding_a_result_over_seeds(tmp_path: Path) -> None:
    """Three seeds of each: deviations, and p-values against the other, in the manifest and on the card."""
    name, twin = "resnet20_lasilu.cifar10_quick", "resnet20.cifar10_quick"
    shutil.copy(WEIGHTS_DIR / "manifest.json", tmp_path)
    result = of_one_seed()
    before = [model["runs"][0]["clean"] for model in result["models"]]
    for model, step in zip(result["models"], (0.5, 0.7), strict=True):
        (first,) = model["runs"]
        model["runs"] = [
            {
                **first,
                "seed": 11 * number,
                "sha256": first["sha256"] if number == 2 else str(number),
                "clean": first["clean"] + step * number**2,
                **means_of(first["accuracy"]),
                "calibration_error": {"clean": step * number**2, "common": 9.0},
            }
            for number in (1, 2, 3)
        ]
        model |= over_seeds(model["runs"])
    source = tmp_path / "measured.json"
    source.write_text(json.dumps(result))
    assert embed_robustness(source, tmp_path) == [twin, name]
    manifest = read_manifest(tmp_path)
    check_manifest(manifest)
    corrupted = manifest[name]["corrupted"]
    assert corrupted["networks"] == 3
    assert corrupted["std"]["clean"] == pytest.approx(0.7 * np.std([1, 4, 9], ddof=1))
    clean = corrupted["comparisons"][0]
    difference = np.array([before[1] - before[0] + 0.2 * number**2 for number in (1, 2, 3)])
    assert (clean["measure"], clean["against"], clean["pairs"]) == ("clean", twin, 3)
    assert clean["p"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert len(corrupted["comparisons"]) == 11
    assert corrupted["comparisons"][3]["measure"] == "total"
    card = render_card(name, manifest)
    assert f"| **{name}** | {before[1] + 0.7 * 14 / 3:.2f} ± 2.83 | " in card
    assert f"| measure | `{twin}` |" in card
    assert "p-values of paired tests" in card
