"""What works with the mandatory packages alone, and what is said where an extra is missing."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from timm_layeract.cli import EXTRAS

# which timm brings
BROUGHT = {"yaml"}
CORE = """
import sys
import timm, torch
import timm_layeract

folder = sys.argv[1]
model = timm.create_model("resnet20_lasilu", pretrained=True).eval()
stock = timm.create_model("resnet18", num_classes=2)
assert timm_layeract.swap_activations(stock, "lasilu").swapped
assert timm_layeract.fuse(timm_layeract.unfuse(model)) is not None
timm_layeract.save_pretrained(model, folder)
loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
x = torch.randn(2, 3, 32, 32)
with torch.inference_mode():
    assert torch.equal(model(x), loaded(x))
model.train()(x).sum().backward()
"""


def block(packages: Iterable[str]) -> str:
    """Code after which none of these can be imported."""
    return f"import sys\nsys.modules.update(dict.fromkeys({sorted(packages)}))\n"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_core_needs_no_extra(tmp_path: Path) -> None:
    result = python(block(set(EXTRAS) - BROUGHT) + CORE, str(tmp_path / "model"))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("package", "extra"), [("typer", "train"), ("datasets", "train"), ("cv2", "eval")])
def test_a_command_says_which_extra_is_missing(package: str, extra: str, tmp_path: Path) -> None:
    command = ["robustness", "resnet20", "-d", str(tmp_path), "-o", str(tmp_path / "out"), "--corruptions", "fog"]
    result = python(f"{block([package])}\nsys.argv[1:] = {command}\nfrom timm_layeract.cli import main\nmain()")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [f"layeract: this needs {package}: pip install 'timm-layeract[{extra}]'"]


def test_extras_are_those_of_the_package() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[$", text, re.MULTILINE) for extra in EXTRAS.values())
