"""What is to be reached on a GPU, and which of it `gpu` found missed."""

from collections.abc import Iterator

from .gpu_cases import LARGE, SMALL, TOLERANCES

__all__ = ["bars"]

Values = dict[tuple[str, str, str], float]  # part, case, what -> value


def _ratio(values: Values, part: str, ours: str, theirs: str, what: str) -> float | None:
    a, b = values.get((part, ours, what)), values.get((part, theirs, what))
    return None if a is None or b is None else a / b


def _operations(values: Values) -> Iterator[tuple[str, float | None, float]]:
    for shape, dtype, layout in LARGE + SMALL:
        at = f"{'x'.join(map(str, shape))} {dtype} {layout}"
        large = (shape, dtype, layout) in LARGE
        for what, most in (("forward", 1.25), ("forward + backward", 1.6)):
            mine = f"{at} la_silu triton"
            if large:
                yield f"{mine} / copy, {what}", _ratio(values, "operations", mine, f"{at} copy", what), most
            theirs = f"{at} la_silu compiled"
            yield f"{mine} / compiled, {what}", _ratio(values, "operations", mine, theirs, what), 1.0
            for add in ("", "add + "):
                mine_too, theirs = f"{at} bn + {add}la_silu triton", f"{at} bn + {add}relu"
                bar = 0.8 if large else 2.0
                yield f"{mine_too} / relu, {what}", _ratio(values, "operations", mine_too, theirs, what), bar


def _steps(values: Values) -> Iterator[tuple[str, float | None, float]]:
    most = {
        ("resnet50 128 x 224 px", mode): bar for mode, bar in (("eager", 1.05), ("graph", 1.02), ("compiled", 1.05))
    }
    most |= {("resnet18 32 x 224 px", "eager"): 1.3, ("resnet18 32 x 224 px", "graph"): 1.05}
    for (at, mode), bar in most.items():
        road = "composite" if mode == "compiled" else "triton"
        ours, theirs = f"{at} {mode} la_silu {road}", f"{at} {mode} relu"
        yield f"{ours} / relu, step", _ratio(values, "steps", ours, theirs, "step"), bar
        if mode == "eager":
            yield f"{ours} / relu, peak bytes", _ratio(values, "steps", ours, theirs, "peak bytes"), 1.02


def bars(values: Values) -> Iterator[tuple[str, float | None, float]]:
    """What is compared, the value found (None: not measured) and the most that it may be."""
    for (part, case, what), value in values.items():
        if part == "correct":
            dtype = next(name for name in TOLERANCES if name in case)
            yield f"{case}, {what}", value, TOLERANCES[dtype]
    yield from _operations(values)
    yield from _steps(values)
    speed = values.get(("engine", "resnet20_lasilu 512 x 32 px graph", "images a second"))
    yield "100,000 / images a second of the engine, resnet20_lasilu", None if speed is None else 1e5 / speed, 1.0
    at = "resnet50 128 x 224 px"
    ours, theirs = (values.get(("first_step", f"{at} {name}", "seconds")) for name in ("la_silu triton", "relu"))
    later = None if ours is None or theirs is None else ours - theirs
    yield f"{at} first step, seconds later than relu's", later, 10.0
