"""Private names of other packages: each is named here when it goes."""

import importlib

import pytest

from timm_layeract.compat import timm, torch


@pytest.mark.parametrize("name", [*timm.PRIVATE, *torch.PRIVATE])
def test_private_names_are_there(name: str) -> None:
    since, without = {**timm.PRIVATE, **torch.PRIVATE}[name]
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            assert hasattr(found, part), f"{name}, there since {since}, is gone; without it {without}"
            found = getattr(found, part)
        return
    pytest.fail(f"{name} names no module")
