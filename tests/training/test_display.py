"""The progress bar of an epoch, drawn on a pretended terminal."""

import io
import re
from functools import partial

import pytest
from rich.console import Console

from timm_layeract.training import display


def test_bar_shows_loss_accuracy_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display.EpochProgress, "INTERVAL", 0.0)
    monkeypatch.setattr(display.sys.stdout, "isatty", lambda: True, raising=False)
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(display, "Progress", partial(display.Progress, console=terminal))
    with display.EpochProgress("epoch 1/2", 4) as bar:
        for _ in range(4):
            bar.advance(lambda: {"loss": 2.5, "top1": 25.0}, 8)
    shown = screen.getvalue()
    for words in ("epoch 1/2", "4/4", "loss 2.5000", "top1 25.00", "images/s"):
        assert words in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
