"""Paired tests against scipy and hand-made cases, and the table over reports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.cli.test_cli import layeract
from timm_layeract._utils.files import surroundings
from timm_layeract.errors import UserError
from timm_layeract.robustness.measure import over_seeds
from timm_layeract.robustness.significance import holm, paired_test, significance


def test_normal_samples_take_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(90, 0.3, 30)
    other = base + rng.normal(0.2, 0.1, 30)
    found = paired_test(other, base)
    expected = stats.ttest_1samp(other - base, 0)
    assert found.test == "paired t-test"
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.difference == pytest.approx(0.2, abs=0.05)
    assert found.effect == pytest.approx(expected.statistic / 30**0.5)


def test_other_samples_take_wilcoxon() -> None:
    base = np.array([90.0, 90.1, 90.2, 90.3, 60.0, 90.5, 90.6, 90.7])  # a run that failed
    step = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, -0.8])
    found = paired_test(base + step, base)
    assert found.test == "Wilcoxon"
    # ranks of the steps are 1 to 8, the last one negative: W- = 8, and 25 of the 256 subsets of 1..8 sum to 8 or less
    assert sum(sum(rank for rank in range(1, 9) if mask >> (rank - 1) & 1) <= 8 for mask in range(256)) == 25
    assert found.p == pytest.approx(2 * 25 / 256)
    assert found.effect == pytest.approx((28 - 8) / 36)
    assert found.interval[0] < found.difference < found.interval[1]


def test_equal_and_shifted_samples() -> None:
    same = [90.0, 91.0, 92.0]
    assert paired_test(same, same).p == 1
    shifted = paired_test([91.0, 92.0, 93.0], same)  # a constant difference has no deviation for a t-test
    assert (shifted.test, shifted.difference, shifted.interval) == ("Wilcoxon", 1.0, (1.0, 1.0))
    assert paired_test([90.0] * 4, [91.0, 92.0, 93.0, 94.0]).test == "Wilcoxon"  # a constant sample has no shape
    for a, b in (([1.0, 2.0], [1.0, 3.0]), ([1.0, 2.0, 3.0], [1.0, 2.0])):
        with pytest.raises(UserError, match="needs three pairs"):
            paired_test(a, b)


def test_holm_by_hand() -> None:
    # 4 x 0.01, 3 x 0.013 raised to it, 2 x 0.03, 0.2
    assert holm([0.013, 0.2, 0.01, 0.03]) == pytest.approx([0.04, 0.2, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]


def report(folder: Path, models: dict[str, dict[int, float]]) -> Path:
    folder.mkdir()
    entries: list[dict[str, Any]] = []
    for name, runs in models.items():
        of: list[Any] = [
            {
                **{"source": f"{name}.{seed}", "seed": seed, "sha256": "0" * 64, "parameters": 1},
                "clean": v,
                "common": None,
                "total": v - 20,
                "categories": {"noise": v - 30},
                "accuracy": {"gaussian_noise": [0.0, 0.0, v - 40, 0.0, 0.0]},
                "calibration_error": {"clean": (100 - v) / 2, "common": None},
            }
            for seed, v in runs.items()
        ]
        entries.append({"name": name, "runs": of, **over_seeds(of)})
    data = {"name": "x", "images": 100, "sha256": "0" * 64, "corruptions": "regenerated", "strengths": None}
    found = {"data": data, "sets": {}, "models": entries, "baseline": None, "precision": "float32"}
    (folder / "robustness.json").write_text(json.dumps({**found, **surroundings("cpu", ())}))
    return folder


def test_table_over_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relu = {11: 90.0, 22: 90.4, 33: 90.1, 44: 90.3, 55: 90.7}
    better = {seed: value + 1 + seed / 500 for seed, value in relu.items()}
    other = {seed: value + 0.01 * (-1) ** seed * seed for seed, value in relu.items()}
    folder = report(tmp_path / "r", {"relu": relu, "lasilu": {**better, 66: 1.0}, "silu": other})
    code, out, err = layeract("significance", str(folder), "-m", "lasilu", "-o", str(tmp_path / "o"), capsys=capsys)
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "o" / "significance.json").read_text())
    rows = result["comparisons"]
    measures = ["clean", "Gaussian noise, severity 3", "total", "noise", "calibration error, clean"]
    assert [row["measure"] for row in rows] == 2 * measures  # the hypotheses first; nothing measured on the fifteen
    assert {row["pairs"] for row in rows} == {5}  # paired by seed: the sixth has no partner
    first = rows[0]
    assert (first["against"], first["measure"]) == ("relu", "clean")
    assert first["p"] == pytest.approx(stats.ttest_rel([better[s] for s in relu], list(relu.values())).pvalue)
    # the hypotheses, named before, are not diluted by what was not
    others = [row for row in rows if row["measure"] not in measures[:2]]
    assert all(row["p_holm"] == row["p"] for row in rows if row not in others)
    assert [row["p_holm"] for row in others] == pytest.approx(holm([row["p"] for row in others]))
    assert "after Holm's correction for all 6" in out
    assert (tmp_path / "o" / "significance.png").stat().st_size > 5000
    assert "| `relu` | `silu` |" in out
    assert f"**{first['difference']:+.2f} (< 1e-3)**" in out


def test_reports_that_cannot_be_compared(tmp_path: Path) -> None:
    folder = report(tmp_path / "r", {"relu": {11: 90.0, 22: 90.4, 33: 90.1}, "lasilu": {11: 91.0, 22: 92.0, 44: 1.0}})
    for arguments, words in (
        ((tmp_path / "nowhere", "relu"), "no report"),
        ((folder, "rel"), "did you mean 'relu'"),
        ((folder, "relu"), "2 seeds in common"),
    ):
        with pytest.raises(UserError, match=words):
            significance([arguments[0]], arguments[1], tmp_path / "o")
    alone = report(tmp_path / "s", {"relu": {11: 90.0}})
    with pytest.raises(UserError, match="no other model"):
        significance([alone], "relu", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_what_wilcoxons_test_cannot_say(tmp_path: Path) -> None:
    """With n seeds the smallest two-sided p-value is that of one of 2^n orders of signs, and of its opposite."""
    seeds = {11: 0.0, 22: 0.0, 33: 0.0}
    folder = report(tmp_path / "r", {"relu": dict.fromkeys(seeds, 90.0), "lasilu": {11: 91.0, 22: 92.0, 33: 93.0}})
    result = significance([folder], "lasilu", tmp_path / "o")
    assert {row["test"] for row in result["comparisons"]} == {"Wilcoxon"}  # a constant sample has no shape
    assert min(row["p"] for row in result["comparisons"]) == pytest.approx(0.25)
    text = (tmp_path / "o" / "significance.md").read_text()
    assert "no p-value of 3 seeds can be below 0.25, however large the difference" in text
