"""Texts, tables and recipes as editors save them: a mark before them is no word."""

from pathlib import Path

import pytest

from timm_layeract.data.metadata import read_metadata
from timm_layeract.data.texts import load_text_splits
from timm_layeract.errors import UserError
from timm_layeract.training.recipe import load_recipe

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mark_tells_no_class(tmp_path: Path, encoding: str) -> None:
    for label, saved in (("good", encoding), ("bad", "utf-8")):
        (tmp_path / label).mkdir()
        for number in range(3):
            (tmp_path / label / f"{number}.txt").write_bytes("the very same wörds\r\nin both".encode(saved))
    train = load_text_splits(str(tmp_path), progress=False)["train"]
    assert len({tuple(tokens.tolist()) for tokens in train.tokens}) == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_recipes_and_tables(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "mine.yaml").write_bytes("epochs: 2\nsource: übung\n".encode(encoding))
    assert (load_recipe(str(tmp_path / "mine.yaml")).epochs, load_recipe(str(tmp_path / "mine.yaml")).source) == (
        2,
        "übung",
    )
    (tmp_path / "1.png").touch()
    (tmp_path / "metadata.csv").write_bytes("file_name\tlabel\n1.png\tä\n".encode(encoding))
    found = read_metadata(tmp_path)
    assert found is not None
    assert found.classes == ("ä",)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes("epochs: 2\nsource: übung\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"mine\.yaml cannot be read"):
        load_recipe(str(tmp_path / "mine.yaml"))
