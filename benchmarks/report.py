"""Tables and plots from results/*.csv: ``python -m benchmarks.report`` writes README.md's tables and the plots."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from timm_layeract._utils.files import markdown_table
from timm_layeract._utils.plotting import save_figure
from timm_layeract._utils.writing import write_whole

from . import sites
from .training import BATCH, LEVEL, MODEL, STEPS

__all__ = ["bars", "load", "write"]

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
PLOTS = FOLDER.parent / "docs" / "images"
Line = dict[str, str]

OPERATION, STEP = "operation", "training step"
FORWARD_BACKWARD = "forward + backward"
LARGE, LARGEST = "32x64x56x56", "32x256x56x56"
BOTH = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Bar:
    """A ratio that is to be reached: `ours` to `theirs`, at each shape and layout."""

    what: str
    ours: str
    theirs: str
    at_most: float
    level: str = STEP
    shapes: tuple[str, ...] = ("16x3x112x112",)
    dtype: str = "float32"
    layouts: tuple[str, ...] = BOTH
    measure: str = FORWARD_BACKWARD


RESNET = ("resnet50_lasilu", "resnet50")
PLAIN: dict[str, Any] = dict(level=OPERATION, shapes=(LARGE,), layouts=BOTH[:1])
FUSED: dict[str, Any] = dict(level=OPERATION, shapes=(LARGE, LARGEST))
BARS = [
    Bar("LA-SiLU / layer_norm", "la_silu", "layer_norm", 1.15, **PLAIN),
    Bar("LA-SiLU / the authors' module", "la_silu", "la_silu authors", 0.12, **PLAIN),
    Bar("LA-SiLU / its composite, a tiny tensor", "la_silu", "la_silu composite", 1.00, OPERATION, ("2x4x1x1",)),
    Bar("BatchNorm + LA-SiLU / batch_norm + relu", "batch_norm + la_silu", "batch_norm + relu", 0.90, **FUSED),
    Bar(
        "the same with a residual between",
        "batch_norm + add + la_silu",
        "batch_norm + add + relu",
        0.95,
        **FUSED,
    ),
    Bar("ResNet-50 training step, lasilu / stock", *RESNET, 0.97),
    Bar("ResNet-50 bytes kept for backward, lasilu / stock", *RESNET, 1.08, measure="bytes kept"),
    Bar("ResNet-50 inference, folded, lasilu / stock", *RESNET, 1.05, level="inference", measure="forward"),
    *(
        Bar(
            f"training engine / a bare loop over tensors, {dtype}",
            "engine",
            "bare loop",
            1 / 0.95,
            LEVEL,
            (f"{BATCH}x3x32x32",),
            dtype,
            BOTH[1:],
            f"{STEPS} steps",
        )
        for dtype in ("float32", "bfloat16")
    ),
    Bar("ResNet-50 training step, bfloat16, lasilu / stock", *RESNET, 1.00, dtype="bfloat16", layouts=BOTH[1:]),
]

# Names of the stock sites and ours, by what is measured of a network.
SITES = {FORWARD_BACKWARD: ("batch_norm + relu", "batch_norm + la_silu"), "forward": ("relu", "la_silu")}

# Tensors that an operation reads and writes both ways, where a sample fits the cache and the batch does not.
MOVED = {"copy": 4, "la_silu": 5, "batch_norm + la_silu": 9, "batch_norm + add + la_silu": 14}


def load(device: str = "cpu") -> list[Line]:
    """All rows of a device's files."""
    lines: list[Line] = []
    for path in sorted((FOLDER / "results").glob(f"{device}_*.csv")):
        with path.open(newline="") as file:
            lines += csv.DictReader(file)
    return lines


def median(lines: list[Line], **of: str) -> float | None:
    """The median of the one row that has these values, None without it."""
    found = [float(line["median"]) for line in lines if all(line[key] == value for key, value in of.items())]
    return found[0] if found else None


def bars(lines: list[Line]) -> list[tuple[str, str, float, float | None]]:
    """(what, where, at most, measured) of each bar, shape and layout."""
    found = []
    for bar in BARS:
        for shape in bar.shapes:
            for layout in bar.layouts:
                of = dict(level=bar.level, shape=shape, dtype=bar.dtype, layout=layout, what=bar.measure)
                a, b = median(lines, name=bar.ours, **of), median(lines, name=bar.theirs, **of)
                found.append((bar.what, f"{shape} {layout}", bar.at_most, a / b if a is not None and b else None))
    return found


def bars_table(lines: list[Line]) -> str:
    """The bars as Markdown."""
    rows = []
    for what, where, limit, ratio in bars(lines):
        measured = "not measured" if ratio is None else f"{ratio:.2f}" + (" ✓" if ratio <= limit else " ✗")
        rows.append((what, where, f"{limit:.2f}", measured))
    return markdown_table(("ratio of medians", "where", "at most", "measured"), rows)


def operations_table(lines: list[Line]) -> str:
    """Forward + backward of every operation, as a multiple of batch_norm + relu's time there."""
    lines = [line for line in lines if line["level"] == OPERATION and line["what"] == "forward + backward"]
    places = list(dict.fromkeys((line["shape"], line["dtype"], line["layout"]) for line in lines))
    names = list(dict.fromkeys(line["name"] for line in lines))
    rows = []
    for shape, dtype, layout in places:
        of = dict(shape=shape, dtype=dtype, layout=layout)
        base = median(lines, name="batch_norm + relu", **of)
        values = [median(lines, name=name, **of) for name in names]
        shown = ["-" if value is None or not base else f"{value / base:.2f}" for value in values]
        rows.append((f"{shape} {dtype} {layout}", *shown))
    return markdown_table(("shape, type, layout", *names), rows)


def bounds_table(lines: list[Line]) -> str:
    """How fast memory is read and written, as a share of what a copy of the same tensor reaches."""
    rows = []
    for shape in (LARGE, LARGEST):
        for dtype in ("float32", "bfloat16"):
            for layout in BOTH:
                of = dict(level=OPERATION, shape=shape, dtype=dtype, layout=layout, what=FORWARD_BACKWARD)
                times = {name: median(lines, name=name, **of) for name in MOVED}
                if all(times.values()):
                    speeds = {name: moved / times[name] for name, moved in MOVED.items()}  # type: ignore[operator]
                    shares = (f"{speed / speeds['copy']:.2f}" for speed in speeds.values())
                    rows.append((f"{shape} {dtype} {layout}", *shares))
    return markdown_table(("shape, type, layout", *MOVED), rows)


def sites_table(lines: list[Line]) -> str:
    """What each bar of ResNet-50 leaves for its BatchNorms, activations and additions, and what they take."""
    rows = []
    for bar in BARS:
        if bar.ours != RESNET[0] or bar.measure not in (FORWARD_BACKWARD, "forward"):
            continue
        stock_name, ours_name = SITES[bar.measure]
        for layout in bar.layouts:
            of = dict(dtype=bar.dtype, layout=layout)
            step = median(lines, level=bar.level, name=bar.theirs, shape=bar.shapes[0], what=bar.measure, **of)
            parts = [(what, moved) for what, moved in sites.MOVED.items() if what.split(",")[0] == bar.measure]
            stock, ours, copies = (
                [median(lines, level=sites.LEVEL, name=name, what=what, **of) for what, _ in parts]
                for name in (stock_name, ours_name, "copy")
            )
            if step is None or None in (*stock, *ours, *copies):
                continue
            of_stock, of_ours = sum(stock), sum(ours)  # type: ignore[arg-type]
            # a copy reads one tensor and writes one
            bound = sum(moved / 2 * copy for (_, moved), copy in zip(parts, copies, strict=True))  # type: ignore[operator]
            room = of_stock - (1 - bar.at_most) * step
            times = (f"{value:.0f} ms" for value in (step, of_stock, room, of_ours, bound))
            rows.append((f"{bar.level}, {bar.dtype} {layout}", f"{bar.at_most:.2f}", *times))
    head = ("stock ResNet-50", "bar", "takes", "of it, sites", "the bar leaves", "ours", "as many tensors copied")
    return markdown_table(head, rows)


def networks_table(lines: list[Line]) -> str:
    """Steps, inference and memory of the networks."""
    lines = [line for line in lines if line["level"] in (STEP, "inference")]
    rows = []
    for line in lines:
        unit, scale = ("MB", 1e-6) if "bytes" in line["what"] else ("ms", 1.0)
        low, mid, high = (scale * float(line[key]) for key in ("lower_quartile", "median", "upper_quartile"))
        spread = f"{low:.0f} to {high:.0f}" if high > low else "-"
        what = f"{line['level']}, {line['what']}" if line["level"] != line["what"] else line["what"]
        kind = f"{line['dtype']} {line['layout']}"
        rows.append((line["name"], line["shape"], kind, what, f"{mid:.0f} {unit}", spread))
    return markdown_table(("network", "input", "type, layout", "what", "median", "quartiles"), rows)


def training_table(lines: list[Line]) -> str:
    """Images a second of the training engine and of other loops around the same network."""
    lines = [line for line in lines if line["level"] == LEVEL]
    rows = [(line["name"], line["dtype"], f"{1000 * STEPS * BATCH / float(line['median']):.0f}") for line in lines]
    return markdown_table((f"{MODEL} at 32 px", "type", "images/s"), rows)


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope of log time over log size: 1 where cost grows in proportion."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def growth_of(lines: list[Line]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Dimension -> operation -> (elements of the tensor, median milliseconds)."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in lines:
        if line["level"].startswith("growth with "):
            size = math.prod(int(n) for n in line["shape"].split("x"))
            of = found.setdefault(line["level"].removeprefix("growth with "), {})
            of.setdefault(line["name"], []).append((size, float(line["median"])))
    return found


def growth_table(lines: list[Line]) -> str:
    """Slopes on logarithmic axes."""
    found = growth_of(lines)
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    rows = [(dimension, *(f"{slope(each[name]):.2f}" for name in names)) for dimension, each in found.items()]
    return markdown_table(("time against elements, growing", *names), rows)


def plot_bars(lines: list[Line], path: Path) -> None:
    """Each ratio beside the line it is to stay under."""
    found = [bar for bar in bars(lines) if bar[3] is not None]
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(found) + 1), layout="constrained")
    labels = [f"{what}\n{where}" for what, where, _, _ in found]
    ratios = [ratio or 0.0 for _, _, _, ratio in found]
    colours = ["tab:green" if ratio <= limit else "tab:orange" for _, _, limit, ratio in found]  # type: ignore[operator]
    axes.barh(labels, ratios, color=colours)
    axes.scatter([limit for _, _, limit, _ in found], labels, marker="|", s=220, color="black", label="at most")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("ratio of medians (1: as much as what it stands in for)")
    axes.legend(loc="lower right")
    save_figure(figure, path)
    plt.close(figure)


def plot_growth(lines: list[Line], path: Path) -> None:
    """Time against elements, a panel for each dimension that grows."""
    found = growth_of(lines)
    figure, panels = plt.subplots(1, len(found), figsize=(4 * len(found), 3.4), sharey=True, layout="constrained")
    for axes, (dimension, each) in zip(panels, found.items(), strict=True):
        for name, points in each.items():
            axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=f"{name} ({slope(points):.2f})")
        axes.set_xlabel(f"elements, growing {dimension}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=7, title="slope in brackets", title_fontsize=7)
    panels[0].set_ylabel("forward + backward, ms")
    save_figure(figure, path)
    plt.close(figure)


def write() -> None:
    """Bring README.md's tables and the plots up to what results/ holds."""
    lines = load()
    text = README.read_text()
    tables = {
        "bars": bars_table,
        "operations": operations_table,
        "bounds": bounds_table,
        "sites": sites_table,
        "networks": networks_table,
        "growth": growth_table,
        "training": training_table,
    }
    for name, table in tables.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        text = f"{before}<!-- {name} -->\n{table(lines)}\n{end}{after}"
    write_whole(README, text)
    plot_bars(lines, PLOTS / "benchmark_ratios.png")
    if growth_of(lines):
        plot_growth(lines, PLOTS / "benchmark_growth.png")


if __name__ == "__main__":
    plt.switch_backend("agg")
    write()
