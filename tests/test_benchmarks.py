"""The benchmark programs run on small tensors, and their report says what they measured. Nothing timed is asserted."""

import csv
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks import gpu, host, measure, networks, operations, report, run, sites, training
from timm_layeract.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of benchmarks/, with its README."""
    (tmp_path / "README.md").write_text(report.README.read_text())
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    monkeypatch.setattr(report, "PLOTS", tmp_path / "plots")
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.mark.slow
def test_every_level_runs_and_is_reported(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "SHAPES", [(2, 3, 5, 7)])
    monkeypatch.setattr(
        operations, "GROWTH", {"batch": [(1, 2, 4, 4), (2, 2, 4, 4)], "side": [(1, 2, 3, 3), (1, 2, 5, 5)]}
    )
    monkeypatch.setattr(networks, "PAIRS", {"resnet20_lasilu": ("resnet20", 2, 16, 10)})
    monkeypatch.setattr(sites, "NETWORK", ("resnet18", 2, 32))
    monkeypatch.setattr(training, "BATCH", 4)
    monkeypatch.setattr(networks, "_peak_in_a_process_of_its_own", lambda name, layout: 1_000_000)
    run.run(repetitions=3, threads=1, compiled=False, authors=None, only="")
    lines = report.load()
    assert {line["level"].split(" with")[0] for line in lines} == {
        "operation",
        "growth",
        "training step",
        "inference",
        "sites",
        "training engine",
    }
    assert {line["name"] for line in lines} >= {"relu", "la_silu", "la_silu composite", "batch_norm + add + la_silu"}
    assert all(
        float(line["lower_quartile"]) <= float(line["median"]) <= float(line["upper_quartile"]) for line in lines
    )
    text = (results / "README.md").read_text()
    assert "| resnet20_lasilu unfused | 2x3x16x16 |" in text
    assert {path.name for path in (results / "plots").iterdir()} >= {"benchmark_growth.png"}
    first = text
    report.write()
    assert (results / "README.md").read_text() == first


def test_bars_compare_the_medians_they_name(results: Path) -> None:
    place = dict(
        level="operation", shape="32x64x56x56", dtype="float32", layout="contiguous", what="forward + backward"
    )
    quartiles = dict(lower_quartile=1.0, upper_quartile=9.0, repetitions=15)
    found = [measure.Row(name="la_silu", median=3.0, **place, **quartiles)]
    found += [measure.Row(name="layer_norm", median=2.0, **place, **quartiles)]
    run.write(found, results / "results" / "cpu_operations.csv")
    ratios = {(what, where): (limit, ratio) for what, where, limit, ratio in report.bars(report.load())}
    assert ratios["LA-SiLU / layer_norm", "32x64x56x56 contiguous"] == (1.15, 1.5)
    assert sum(ratio is not None for _, ratio in ratios.values()) == 1
    assert "| 1.15 | 1.50 ✗ |" in report.bars_table(report.load())


def test_sites_of_a_network() -> None:
    found = sites.find_sites("resnet50", 3, 64)
    assert len(found) == 1 + 3 * 16
    assert found[0].shape == (3, 64, 32, 32)
    assert found[-1] == sites.Site((3, 2048, 2, 2), residual=True)
    assert sum(site.residual for site in found) == 16
    assert sum(site.residual_norm for site in found) == 4


def test_what_a_bar_leaves_for_the_sites(results: Path) -> None:
    def row(level: str, name: str, what: str, median: float) -> measure.Row:
        of = dict(shape="16x3x112x112", dtype="float32", layout="contiguous", repetitions=15)
        return measure.Row(level, name, what=what, median=median, lower_quartile=0.0, upper_quartile=0.0, **of)  # type: ignore[arg-type]

    both = "forward + backward"
    found = [row("training step", "resnet50", both, 1000.0)]
    for what, stock, ours, copy in ((both, 60.0, 50.0, 10.0), (f"{both}, residual", 40.0, 45.0, 4.0)):
        found += [
            row("sites", "batch_norm + relu", what, stock),
            row("sites", "batch_norm + la_silu", what, ours),
            row("sites", "copy", what, copy),
        ]
    run.write(found, results / "results" / "cpu_sites.csv")
    # of 970 ms the convolutions take 900; nine tensors are 4.5 copies, fourteen 7
    assert "| 0.97 | 1000 ms | 100 ms | 70 ms | 95 ms | 73 ms |" in report.sites_table(report.load())


def test_slope_of_a_power_law() -> None:
    assert report.slope([(x, 3 * x**1.5) for x in (1.0, 10.0, 100.0)]) == pytest.approx(1.5)


def test_bytes_kept_counts_each_storage_once_and_no_parameters() -> None:
    layer = torch.nn.Linear(4, 4)
    x = torch.randn(8, 4, requires_grad=True)
    assert measure.bytes_kept(lambda: (layer(x) + layer(x)).sum(), list(layer.parameters())) == 8 * 4 * 4


def test_interleaving_takes_turns() -> None:
    order: list[str] = []
    cases = {name: (lambda name=name: order.append(name)) for name in "ab"}
    with Progress(console=Console(file=io.StringIO())) as progress:
        times = measure.interleave(cases, 3, progress)
    assert "".join(order) == "ab" * 5
    assert [len(each) for each in times.values()] == [3, 3]


def test_results_in_git_are_complete_csv() -> None:
    for path in (Path(report.__file__).parent / "results").glob("*.csv"):
        with path.open(newline="") as file:
            assert all(None not in line.values() for line in csv.DictReader(file))


def test_gpu_parts_resume_and_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["operations", "--rehearse", "--seconds", "-1"], tmp_path) == gpu.MORE
    assert not list(tmp_path.iterdir())
    assert gpu.main(["operations", "--rehearse"], tmp_path) == 0
    lines = (tmp_path / "cuda_operations.csv").read_text().splitlines()
    assert any("bn + add + la_silu triton" in line for line in lines)
    (tmp_path / "cuda_operations.csv").write_text("\n".join(lines[:-2]) + "\n")
    capsys.readouterr()
    assert gpu.main(["operations", "--rehearse"], tmp_path) == 0  # the case that is missing
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert len((tmp_path / "cuda_operations.csv").read_text().splitlines()) == len(lines)
    assert gpu.judge(gpu.REHEARSAL, tmp_path) == 0


def test_gpu_cases_run_and_find_the_kernels_right(tmp_path: Path) -> None:
    cases = dict(gpu.PARTS["correct"](gpu.REHEARSAL))
    for name in [name for name in cases if "bfloat16 channels_last offset 100" in name]:
        assert cases[name]()["error"] < 3e-2
    for case in dict(gpu.PARTS["engine"](gpu.REHEARSAL)).values():
        assert case()["images a second"] > 0
    steps = dict(gpu.PARTS["steps"](gpu.REHEARSAL))
    assert steps["resnet18 2 x 32 px eager la_silu composite"]()["step"] > 0
    assert len(dict(gpu.PARTS["first_step"](gpu.REHEARSAL))) == 1
    assert len(dict(gpu.PARTS["steps"](gpu.FULL))) == 3 * (4 + 4 + 2)


def test_gpu_bars_name_cases_that_exist_and_miss_what_is_too_slow() -> None:
    cases = {(part, case) for part in gpu.PARTS for case, _ in gpu.PARTS[part](gpu.FULL)}
    whats = {"operations": ["forward", "forward + backward"], "steps": ["step", "peak bytes"]}
    whats |= {"first_step": ["seconds"], "correct": ["error"], "engine": ["images a second"]}
    values = {(part, case, what): 1.0 for part, case in cases for what in whats[part]}
    found = list(gpu.bars(values))
    assert all(value is not None for _, value, _ in found)
    slow = {key: 9.0 if "la_silu triton" in key[1] else value for key, value in values.items()}
    assert sum(value > most for _, value, most in gpu.bars(slow)) > 40  # type: ignore[operator]


def test_gpu_case_that_fails_is_named_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> dict[str, float]:
        raise RuntimeError("illegal memory access")

    cases = [("one", fail), ("two", lambda: {"step": 1.0})]
    monkeypatch.setitem(gpu.PARTS, "steps", lambda sizes: iter(cases))
    assert gpu.main(["steps", "--rehearse"], tmp_path) == 1
    said = capsys.readouterr().out
    assert "one: FAILED, RuntimeError: illegal memory access" in said
    assert "two: step 1" in said


def test_gpu_command_without_a_gpu_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main([]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_host_times_every_call_without_launching() -> None:
    found = host.measure()
    assert len(found) == 3
    assert all(each.keys() == host.BARS.keys() and min(each.values()) > 0 for each in found.values())
