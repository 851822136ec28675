"""Files are written whole or not at all, whatever happens: full disks, folders that may not be written to, rivals."""

import contextlib
import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import timm_layeract
from tests.full_disk import room
from timm_layeract._utils import writing
from timm_layeract._utils.plotting import new_figure, save_figure
from timm_layeract._utils.writing import copy_whole, is_partial, staging, write_whole
from timm_layeract.checkpoints.save import save_weights
from timm_layeract.data.pictures import save_png
from timm_layeract.errors import WriteError
from timm_layeract.robustness.accuracy import Score
from timm_layeract.robustness.cache import ResultCache
from timm_layeract.training.states import write_state

LIMIT = 2000  # bytes that a file may have where the disk is to be full


def _noise(path: Path) -> None:
    save_png(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), path)


def _plot(path: Path) -> None:
    figure, panels = new_figure(1, 1, 2, 2)
    panels[0, 0].plot([0, 1], [1, 0])
    save_figure(figure, path)


def _array(path: Path) -> None:
    with writing.writing(path) as file:
        np.save(file, np.zeros(10_000))


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_whole(path, "new " * 1000),
    "state": lambda path: write_state(path, {"weights": torch.zeros(1000)}),
    "weights": lambda path: save_weights(nn.Linear(100, 10), path),
    "picture": _noise,
    "plot": _plot,
    "array": _array,
    "copy": lambda path: copy_whole(Path(__file__), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(b"old")
    with room(LIMIT), pytest.raises(WriteError, match=r"^\S+file\.png cannot be written: .+\.$") as error:
        WRITERS[name](path)
    assert error.value.errno in (errno.EFBIG, None)  # numpy says no number
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.png"]
    WRITERS[name](path)
    assert path.stat().st_size > LIMIT


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_fault_in_any_call_leaves_what_was_there(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace"), "open": (Path, "open")}[call], fail)
    with pytest.raises(WriteError, match="file cannot be written: No space left on device"):
        write_whole(path, "new")
    assert not list(tmp_path.iterdir())  # nor the folder that was made for it


def test_file_systems_that_sync_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_file_and_folder_are_synced_before_and_after_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real(descriptor)

    def renamed(path: Path, name: Path) -> Path:
        events.append("rename")
        assert path.read_text() == "new"
        return replace(path, name)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "file", "new")
    assert events[0].startswith("sync .file.")
    assert events[1:] == ["rename", f"sync {tmp_path.name}"]


def _write_as_nobody(folder: Path, answer: Path) -> None:
    file = answer.open("w")
    os.setuid(65534)
    try:
        write_whole(folder / "file", "new")
    except WriteError as error:
        file.write(str(error))
    file.close()


@pytest.mark.skipif(os.getuid() != 0, reason="another user can be taken by root alone")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "file").write_text("old")
        folder.chmod(0o555)
        arguments = (folder, tmp_path / "answer")
        process = multiprocessing.get_context("fork").Process(target=_write_as_nobody, args=arguments)
        process.start()
        process.join()
        assert (tmp_path / "answer").read_text() == f"{folder / 'file'} cannot be written: Permission denied."
        assert (folder / "file").read_text() == "old"
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path / kind
    {"folder": path.mkdir, "fifo": partial(os.mkfifo, path), "device": lambda: None}[kind]()
    with pytest.raises(WriteError, match="there is something that is no file"):
        write_whole(path, "new")
    assert not path.is_file()


def _rival(path: Path, letter: str) -> None:
    for length in range(200):
        write_whole(path, letter * (1 + length * 50))


def test_rivals_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "a")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_rival, args=(path, letter)) for letter in "ab"]
    for process in processes:
        process.start()
    seen = set()
    while any(process.is_alive() for process in processes):
        content = path.read_text()
        assert set(content) in ({"a"}, {"b"})
        seen.add(content[0])
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert seen == {"a", "b"}
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def _two_files(folder: Path) -> None:
    with staging(folder) as staged:
        (staged / "first").write_text("new")
        (staged / "second").write_bytes(bytes(2 * LIMIT))


def test_several_files_together(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    with room(LIMIT), pytest.raises(WriteError, match=r"new/model cannot be written: File too large"):
        _two_files(folder)
    assert not list(tmp_path.iterdir())
    folder.mkdir(parents=True)
    (folder / "first").write_text("old")
    with contextlib.suppress(KeyError), staging(folder) as staged:
        (staged / "first").write_text("new")
        raise KeyError
    assert [each.name for each in folder.iterdir()] == ["first"]
    assert (folder / "first").read_text() == "old"
    with staging(folder) as staged:
        (staged / "first").write_text("new")
        assert is_partial(staged)
    assert (folder / "first").read_text() == "new"


def test_a_model_on_a_full_disk_stays_as_it_was(tmp_path: Path) -> None:
    model = timm.create_model("resnet20_lasilu", num_classes=10)
    timm_layeract.save_pretrained(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        next(model.parameters()).zero_()
    with room(LIMIT), pytest.raises(WriteError, match=r"model\.safetensors cannot be written"):
        timm_layeract.save_pretrained(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_results_of_two_processes_are_both_kept(tmp_path: Path) -> None:
    one, other = ResultCache(tmp_path / "cache"), ResultCache(tmp_path / "cache")
    one.put_score("network", "images", Score(3, 0.1))
    other.put_score("second", "images", Score(4, 0.2))
    with (tmp_path / "cache").open("a") as file:
        file.write('{"network": "third", "se')  # an earlier version, stopped as it wrote
    again = ResultCache(tmp_path / "cache")
    assert [again.score(name, "images") for name in ("network", "second", "third")] == [
        Score(3, 0.1),
        Score(4, 0.2),
        None,
    ]
    again.put_score("third", "images", Score(5, 0.3))
    assert ResultCache(tmp_path / "cache").score("third", "images") == Score(5, 0.3)


def test_the_command_line_says_it_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", "from timm_layeract.cli import main; main()", "r-score", "-o", "out"]
    limit = "ulimit -f 10; trap '' XFSZ; exec \"$@\""  # in blocks of 1024 bytes
    done = subprocess.run(["bash", "-c", limit, "-", *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines() == ["layeract: out/r_score.png cannot be written: File too large."]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["r_score.csv"]
