"""Running what a model card shows, and judging what it says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from timm_layeract.checkpoints.manifest import monitor_of


def run_snippet(card: str, **replaced: str) -> None:
    """Run the one Python snippet of a card beside an image.png, in the working folder."""
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    for old, new in replaced.items():
        snippet = snippet.replace(old, new)
    Image.fromarray(load_sample_image("flower.jpg")).save("image.png")
    exec(compile(snippet, "card", "exec"), {})


def check_answer(said: str, entry: dict[str, Any], folder: Path) -> None:
    """What the snippet printed (and wrote) is an answer of the network's task."""
    labels = entry["pretrained_cfg"]["label_names"]
    if monitor_of(entry["test"]) == "iou":
        percent, label = re.fullmatch(r"([\d.]+) % of the pixels are (.+)\n", said).groups()  # type: ignore[union-attr]
        assert [label] == labels
        mask, image = (np.asarray(Image.open(folder / name)) for name in ("mask.png", "image.png"))
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        assert abs(100 * (mask == 255).mean() - float(percent)) < 0.06
    else:
        answer, percent = re.fullmatch(r"(.+): ([\d.]+) %\n", said).groups()  # type: ignore[union-attr]
        assert answer in labels
        assert 100 / len(labels) <= float(percent) <= 100
