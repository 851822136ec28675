"""Is one model better than another over seeds? Paired tests as in the paper's Tables 20 to 23.

Two models trained with the same seeds are paired by seed. If Shapiro-Wilk rejects normality for neither sample, the
test is the paired t-test, else Wilcoxon's signed-rank test (v3, appendix K); both two-sided. `HYPOTHESES` were named
before the runs that test them, so their p-values stand as they are; all others are corrected together by Holm's method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from .._utils.files import markdown_table, write_json
from .._utils.records import read_record
from .._utils.writing import check_folder, write_whole
from ..checkpoints.tables import SIGNIFICANT, p_value_table
from ..errors import UserError, did_you_mean
from .measure import figures_of
from .plots import plot_forest
from .records import MeasuredModel, ReportedTest, Robustness, Significance

__all__ = ["HYPOTHESES", "PairedTest", "compare_models", "holm", "paired_test", "significance"]

CONFIDENCE = 0.95
T_TEST, WILCOXON = "paired t-test", "Wilcoxon"
GAUSSIAN = ("gaussian_noise", 3)  # corruption and severity
GAUSSIAN_NOISE = "Gaussian noise, severity 3"
HYPOTHESES = ("clean", "common", GAUSSIAN_NOISE)


@dataclass(frozen=True)
class PairedTest:
    """A paired test of samples a and b.

    Attributes:
        pairs: Number of pairs.
        difference: Mean of a - b.
        interval: 95 % confidence interval of it: Student's, or the bootstrap's beside Wilcoxon's test.
        test: Which test.
        p: Two-sided p-value.
        effect: Cohen's d of the differences, or the rank-biserial correlation beside Wilcoxon's test.
    """

    pairs: int
    difference: float
    interval: tuple[float, float]
    test: str
    p: float
    effect: float


def paired_test(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Compare paired samples, three pairs at least.

    Raises:
        UserError: Samples of different lengths, or shorter than three.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if len(first) != len(second) or len(first) < 3:
        raise UserError(f"A paired test needs three pairs at least, got samples of {len(first)} and {len(second)}.")
    difference = first - second
    if not difference.any():
        return PairedTest(len(first), 0.0, (0.0, 0.0), WILCOXON, 1.0, 0.0)
    if _is_normal(first) and _is_normal(second) and np.ptp(difference) > 0:
        tested = stats.ttest_rel(first, second)
        interval, test, effect = (
            tested.confidence_interval(CONFIDENCE),
            T_TEST,
            difference.mean() / difference.std(ddof=1),
        )
    else:
        tested, test = stats.wilcoxon(difference), WILCOXON
        ranks = stats.rankdata(np.abs(difference[difference != 0]))
        effect = np.sum(ranks * np.sign(difference[difference != 0])) / ranks.sum()
        interval = _bootstrap(difference)
    low, high = interval
    return PairedTest(
        len(first), float(difference.mean()), (float(low), float(high)), test, float(tested.pvalue), float(effect)
    )


def _is_normal(sample: np.ndarray) -> bool:
    """Whether Shapiro-Wilk does not reject; a constant sample has no shape to test."""
    return bool(np.ptp(sample) > 0 and stats.shapiro(sample).pvalue >= SIGNIFICANT)


def _bootstrap(difference: np.ndarray) -> tuple[float, float]:
    if np.ptp(difference) == 0:
        return float(difference[0]), float(difference[0])
    rng = np.random.default_rng(0)
    drawn = stats.bootstrap((difference,), np.mean, confidence_level=CONFIDENCE, method="percentile", rng=rng)
    return drawn.confidence_interval.low, drawn.confidence_interval.high


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979): the k-th smallest of m times m - k + 1, never decreasing."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return list(map(float, adjusted))


def significance(reports: Sequence[str | Path], model: str, output: str | Path) -> Significance:
    """Compare one model with all others of robustness reports; write significance.json, .md and .png, a forest plot.

    Args:
        reports: Folders that `layeract robustness` wrote, or their robustness.json.
        model: Label of the model (as it was given to `layeract robustness`), in each report.
        output: Folder to write to.

    Returns:
        What significance.json holds: ``model``, and ``comparisons`` as `compare_models` gives them.

    Raises:
        UserError: No such report or model, or fewer than three seeds in common.
    """
    check_folder(Path(output))
    found = {str(report): _read_models(Path(report)) for report in reports}
    comparisons = compare_models(found, model)
    result: Significance = {"model": model, "level": SIGNIFICANT, "comparisons": comparisons}
    write_json(Path(output) / "significance.json", result)
    write_whole(Path(output) / "significance.md", markdown(result))
    plot_forest(model, comparisons, Path(output) / "significance.png")
    return result


def _read_models(report: Path) -> list[MeasuredModel]:
    path = report / "robustness.json" if report.is_dir() else report
    if not path.is_file():
        raise UserError(f"There is no report {path}; `layeract robustness` writes it.")
    return read_record(Robustness, path)["models"]


def compare_models(reports: Mapping[str, Sequence[MeasuredModel]], model: str) -> list[ReportedTest]:
    """Compare one model with all others, in each measure; those beside the hypotheses are corrected together.

    Args:
        reports: Name of a report -> its ``models``.
        model: Label of the model, in each report.

    Returns:
        A test for each report, other model and measure, in this order.

    Raises:
        UserError: A report without the model or without another, or fewer than three seeds in common.
    """
    found: list[tuple[str, str, str, PairedTest]] = []
    for report, entries in reports.items():
        models = {entry["name"]: _by_seed(entry) for entry in entries}
        if model not in models:
            raise UserError(f"{report} has no model {model!r}; {did_you_mean(model, models)}")
        if len(models) == 1:
            raise UserError(f"{report} holds no other model than {model}.")
        own = models.pop(model)
        for other, runs in models.items():
            seeds = sorted(set(runs) & set(own))
            if len(seeds) < 3:
                raise UserError(
                    f"{model} and {other} have {len(seeds)} seeds in common in {report}; a test needs three."
                )
            for measure in own[seeds[0]]:
                pair = [[each[seed][measure] for seed in seeds] for each in (own, runs)]
                found.append((report, measure, other, paired_test(*pair)))
    adjusted = iter(holm([tested.p for _, measure, _, tested in found if measure not in HYPOTHESES]))
    return [
        {
            "report": report,
            "measure": measure,
            "against": other,
            "hypothesis": measure in HYPOTHESES,
            "pairs": tested.pairs,
            "difference": tested.difference,
            "interval": tested.interval,
            "test": tested.test,
            "p": tested.p,
            "effect": tested.effect,
            "p_holm": tested.p if measure in HYPOTHESES else next(adjusted),
        }
        for report, measure, other, tested in found
    ]


def _by_seed(model: MeasuredModel) -> dict[int, dict[str, float]]:
    """Seed -> measure -> percent, the hypotheses first."""
    found = {}
    for run in model["runs"]:
        if run["seed"] is not None:
            corruption, severity = GAUSSIAN
            noisy = run["accuracy"].get(corruption)
            errors = {f"calibration error, {name}": value for name, value in run.get("calibration_error", {}).items()}
            figures = {**figures_of(run), GAUSSIAN_NOISE: noisy[severity - 1] if noisy else None, **errors}
            order = dict.fromkeys([*HYPOTHESES, *figures])
            found[run["seed"]] = {name: value for name in order if (value := figures.get(name)) is not None}
    return found


def markdown(result: Significance) -> str:
    """Differences and p-values with a column for each competitor, and every comparison in full."""
    rows = result["comparisons"]
    full = [
        [row["measure"], f"`{row['against']}`", str(row["pairs"]), f"{row['difference']:+.2f}",
         f"{row['interval'][0]:+.2f} to {row['interval'][1]:+.2f}", row["test"], f"{row['p']:.2g}",
         f"{row['p_holm']:.2g}", f"{row['effect']:+.2f}"]
        for row in rows
    ]  # fmt: skip
    head = ["measure", "against", "pairs", "difference", "95 % interval", "test", "p", "p (Holm)", "effect"]
    return (
        f"# Significance of `{result['model']}`\n\n{p_value_table(result['model'], rows, ('report', 'measure'))}\n\n"
        "The effect is Cohen's d of the paired differences, or the "
        f"rank-biserial correlation beside Wilcoxon's test.\n\n{markdown_table(head, full)}\n"
    )
