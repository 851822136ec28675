"""The progress bar of an epoch, drawn on a pretended terminal."""

import io
import re
from functools import partial

import pytest
import torch
from rich.console import Console

from timm_layeract.training import progress


def test_bar_shows_loss_accuracy_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.EpochProgress, "INTERVAL", 0.0)
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Progress", partial(progress.Progress, console=terminal))
    with progress.EpochProgress("epoch 1/2", 4) as bar:
        for step in range(1, 5):
            bar.advance(torch.tensor([2.5 * 8 * step, 2.0 * step, 8.0 * step]))
    shown = screen.getvalue()
    for words in ("epoch 1/2", "4/4", "loss 2.500", "top-1 25.00 %", "img/s"):
        assert words in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
