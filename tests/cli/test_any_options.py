"""Whatever a command is given: an exit code that says whose fault it is, at most one line, no traceback, nothing left.

Command lines are drawn from the parameters of the commands, so that a new option is tried too.
"""

import inspect
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from timm_layeract import cli
from timm_layeract.cli import analyze
from timm_layeract.cli.commands import PANELS

# `publish` and `embed` change what ships; `recipes` takes nothing, `list` any pattern, `runs` any folder.
COMMANDS: dict[tuple[str, ...], Callable[..., None]] = {
    **{(each.__name__.replace("_", "-"),): each for panel in PANELS.values() for each in panel},
    **{("analyze", each.name or each.callback.__name__): each.callback for each in analyze.app.registered_commands},  # type: ignore[union-attr,dict-item]
}
for name in ("publish", "embed", "recipes", "list-", "runs"):
    del COMMANDS[(name,)]
GIVEN = ("data", "points")  # without which a command takes digits, or integrates for long
LONGEST = 300  # characters of a line

# What stands in for a value: of its type, at the edges, and beyond. None is data that could be trained on.
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
).map(str)
PLACES = st.sampled_from(
    ["file", "folder", "loop", "file/below", "absent", "absent/deep", "x" * 300, "config", "values.yaml", "."]
)
WORDS = st.sampled_from(
    [
        "",
        ",",
        "=",
        ":",
        "a=b",
        "lr=[1",
        "seed=null",
        "seed=-1",
        "local-dir:",
        "smp:",
        "smp:folder",
        "..",
        "{seed}",
        " ",
        "lasilu",
        "resnet20",
        "resnet20_lasilu.nosuch",
        "csv",
        "11,22",
        "1,,2",
        "-1",
        "noise",
        "relu=3",
        "a.module:name",
    ]
)
LONG = st.sampled_from(["[" * 3000, "a b " * 500, "ä/" * 900])
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.one_of(WORDS, PLACES, LONG, st.text(CHARACTERS, max_size=300))


def values_of(kind: Any) -> st.SearchStrategy[str]:
    """What an option of a type is given."""
    kinds = typing.get_args(kind) or (kind,)
    if Path in kinds or list[Path] in (kind, *kinds):
        return st.one_of(PLACES, TEXTS)
    return st.one_of(NUMBERS, TEXTS) if int in kinds or float in kinds else TEXTS


@st.composite
def command_lines(draw: st.DrawFn, names: list[tuple[str, ...]]) -> list[str]:
    """A command with its required parameters, and some others."""
    name = draw(st.sampled_from(names))
    line = list(name)
    for parameter in inspect.signature(COMMANDS[name], eval_str=True).parameters.values():
        kind, declared = typing.get_args(parameter.annotation)
        required = parameter.default is inspect.Parameter.empty
        if not (required or parameter.name in GIVEN or draw(st.booleans())):
            continue
        if isinstance(declared, typer.models.ArgumentInfo):
            line.append(draw(values_of(kind)))
        else:
            spelt = [each for each in declared.param_decls or () if each.startswith("--")]
            flag = spelt[0].split("/")[0] if spelt else f"--{parameter.name.replace('_', '-')}"
            line.append(flag if kind is bool else f"{flag}={draw(values_of(kind))}")
    return line


@pytest.fixture
def odd_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a file, a folder, a loop of links, a broken config and a recipe that is none."""
    (tmp_path / "file").write_text("no image, no weights")
    (tmp_path / "folder").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text('{"architecture": 3}')
    (tmp_path / "values.yaml").write_text("epochs: [1]")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def there(folder: Path) -> set[str]:
    """Everything in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@given(line=command_lines(sorted(COMMANDS)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(line=["train", "-m", "resnet20", "-d", "folder", "-o", "x" * 300])
def test_any_options(line: list[str], odd_places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = there(odd_places)
    sys.argv, original = ["layeract", *line], sys.argv
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = original
    said = capsys.readouterr().err
    assert stop.value.code in (0, 2), said
    assert "Traceback" not in said
    own = [text for text in said.splitlines() if text.startswith("layeract:")]
    assert len(own) <= 1
    assert all(len(text) <= LONGEST for text in own), said
    if stop.value.code:
        assert own or "Usage:" in said
        assert there(odd_places) == before
