"""The calls drawn at random that `make sanitize` makes under sanitizers: a few of them, as the libraries are."""

import pytest

from tests.kernels import fuzz
from timm_layeract.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")


def test_calls_drawn_at_random() -> None:
    for seed in range(300):
        fuzz.check(seed)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_in_threads_and_child_processes() -> None:
    assert fuzz.run(seed=1, seconds=0) == 24


def test_a_call_that_goes_wrong_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu.layer_act_forward
    monkeypatch.setattr(cpu, "layer_act_forward", lambda *args: (right(*args)[0].flip(0) + 1, right(*args)[1]))
    with pytest.raises(AssertionError, match=r"seed \d+: "):
        list(map(fuzz.check, range(100)))
