"""Texts as data and as a task: reading, numbering words, training by the command line, resuming, every refusal."""

import json
import random
from pathlib import Path

import datasets
import pytest
import timm
import torch
from typer.testing import CliRunner

from timm_layeract.adaptation.adapt import adapt
from timm_layeract.cli import app
from timm_layeract.data.texts import UNKNOWN, TextSplit, Vocabulary, load_text_splits
from timm_layeract.errors import UserError
from timm_layeract.networks import load_networks
from timm_layeract.prediction.files import load_segmenter
from timm_layeract.release.embed import embed_runs
from timm_layeract.training import run
from timm_layeract.training.engine import Trainer
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.tasks.classification import Classification
from timm_layeract.training.tasks.text import TextClassification

RECIPE = load_recipe("imdb_textrcnn", epochs=3, batch_size=16, lr=0.01, max_tokens=30)
CLASSES = ("neg", "pos")


def reviews(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Three to forty words, among which one says what the review thinks."""
    draw = random.Random(seed)
    texts, labels = [], []
    for index in range(count):
        words = [f"word{draw.randrange(50)}" for _ in range(draw.randint(2, 39))]
        words.insert(draw.randrange(min(len(words), 25)), ("Dreadful!", "splendid")[index % 2])
        texts.append(" ".join(words))
        labels.append(index % 2)
    return texts, labels


def write(folder: Path, texts: list[str], labels: list[int], classes: tuple[str, ...] = CLASSES) -> None:
    for index, (text, label) in enumerate(zip(texts, labels, strict=True)):
        place = folder / classes[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:04d}.txt").write_text(text, encoding="utf-8")


def rows(count: int, seed: int = 0, label: object = None) -> datasets.Dataset:
    """The same reviews as a table; labels are a ClassLabel or of another type."""
    texts, labels = reviews(count, seed)
    table = datasets.Dataset.from_dict({"text": texts, "label": labels})
    return table.cast_column("label", label or datasets.ClassLabel(names=list(CLASSES)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the layout of the IMDB archive."""
    place = tmp_path_factory.mktemp("aclImdb")
    write(place / "train", *reviews(240))
    write(place / "test", *reviews(60, seed=1))
    write(place / "train", ["no label"], [0], ("unsup",))
    (place / "train" / "urls_pos.txt").write_text("http://localhost/1")
    return place


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("run") / "whole"
    execution = Execution(progress=False, report=lambda _: None, checkpoint_steps=5)
    run.train("textrcnn_nrelu", RECIPE, str(folder), output, execution=execution)
    return output


# --- words ------------------------------------------------------------------------------------------------------------


def test_words_are_numbered_by_frequency_and_cut() -> None:
    texts = ["A film. a FILM!<br /><br />a", "film: a b, c", "b \uff43"]  # the last a full-width c
    words = Vocabulary.learn(texts, None, None)
    assert len(words) == 2 + len({"a", "film", ".", "!", ":", "b", ",", "c"})
    # a 4, film 3, then b 2 and c 2 in the order of the alphabet
    assert words(["a film b c", "zebra", "C"]).tolist() == [[2, 3, 4, 5], [UNKNOWN, 0, 0, 0], [5, 0, 0, 0]]
    assert words(["", " \n"]).tolist() == [[UNKNOWN], [UNKNOWN]]
    few = Vocabulary.learn(texts, 4, 3)
    assert len(few) == 4
    assert few(["a film b c a a"]).tolist() == [[2, 3, UNKNOWN]]


def test_a_text_that_spells_padding_is_not_padding() -> None:
    words = Vocabulary.learn(["[PAD] [UNK] pad"], None, None)
    tokens = words(["[PAD] pad", "[UNK] [pad]"])
    assert (tokens > UNKNOWN).sum(1).tolist() == [4, 6]


def test_a_vocabulary_is_a_file_that_others_read(tmp_path: Path) -> None:
    words = Vocabulary.learn(reviews(20)[0], 20, 10)
    words.save(tmp_path)
    again, texts = Vocabulary.load(tmp_path), reviews(5, seed=2)[0]
    assert torch.equal(again(texts), words(texts))
    assert (len(again), again.sha256()) == (20, words.sha256())
    assert words.sha256() != Vocabulary.learn(reviews(20)[0], 19, 10).sha256()
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / Vocabulary.FILE))
    assert other(texts, truncation=True, max_length=10)["input_ids"] == [each.tolist() for each in words.encode(texts)]
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        Vocabulary.load(tmp_path / "absent")
    (tmp_path / Vocabulary.FILE).write_text("{")
    with pytest.raises(UserError, match="is not a vocabulary"):
        Vocabulary.load(tmp_path)


# --- data -------------------------------------------------------------------------------------------------------------


def assert_same(split: TextSplit, other: TextSplit) -> None:
    """The same texts with the same labels, in whatever order."""
    for each in (split, other):
        assert each.classes == CLASSES
    found, expected = (
        sorted((text.tolist(), int(label)) for text, label in (each[i] for i in range(len(each))))
        for each in (split, other)
    )
    assert found == expected


def test_every_layout_holds_the_same(tmp_path: Path, folder: Path) -> None:
    splits = load_text_splits(str(folder), progress=False)
    assert {name: len(split) for name, split in splits.items()} == {"train": 240, "test": 60}
    texts, labels = reviews(240)
    index = texts.index((folder / "train" / "pos" / "0003.txt").read_text())
    assert labels[index] == 1

    write(tmp_path / "classes", texts, labels)
    assert_same(load_text_splits(str(tmp_path / "classes"), progress=False)["train"], splits["train"])
    (tmp_path / "parquet").mkdir()
    rows(240).to_parquet(str(tmp_path / "parquet" / "train-00000-of-00001.parquet"))
    rows(60, seed=1).to_parquet(str(tmp_path / "parquet" / "test.parquet"))
    rows(9, seed=2).to_parquet(str(tmp_path / "parquet" / "unsupervised.parquet"))
    saved = datasets.DatasetDict(train=rows(240), test=rows(60, seed=1))
    saved.save_to_disk(str(tmp_path / "saved"))
    for name in ("parquet", "saved"):
        loaded = load_text_splits(str(tmp_path / name), progress=False)
        assert list(loaded) == ["train", "test"]
        for split in loaded:
            assert_same(loaded[split], splits[split])
    assert loaded["train"].sha256() == load_text_splits(str(tmp_path / "parquet"), progress=False)["train"].sha256()
    assert (
        len({loaded["train"].sha256(), loaded["test"].sha256(), loaded["train"].take(torch.arange(60)).sha256()}) == 3
    )


@pytest.mark.parametrize(("kind", "names"), [("int64", ("0", "1")), ("string", ("bad", "good"))])
def test_labels_without_a_list_of_classes(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    table = rows(20, label=datasets.Value("int64"))
    if kind == "string":
        table = table.cast_column("label", datasets.Value("string"))
        table = table.map(lambda row: {"label": names[int(row["label"])]})
    table = table.rename_column("text", "sentence")
    table.to_parquet(str(tmp_path / "train.parquet"))
    table.select([1, 3]).to_parquet(str(tmp_path / "validation.parquet"))
    splits = load_text_splits(str(tmp_path), progress=False)
    assert splits["train"].classes == splits["test"].classes == names
    assert splits["train"].labels.tolist() == [0, 1] * 10
    assert splits["test"].labels.tolist() == [1, 1]


def test_words_of_the_test_split_are_not_learnt(tmp_path: Path) -> None:
    write(tmp_path / "train", ["one two", "two three"], [0, 1])
    write(tmp_path / "test", ["two four"], [1])
    splits = load_text_splits(str(tmp_path), progress=False)
    assert splits["test"].tokens[0].tolist() == [2, UNKNOWN]


def test_batches_are_as_long_as_their_longest_text(folder: Path) -> None:
    split = load_text_splits(str(folder), max_tokens=30, progress=False)["train"]
    lengths = [len(split.tokens[index]) for index in range(len(split))]
    assert max(lengths) == 30 > min(lengths)
    short = sorted(range(len(split)), key=lengths.__getitem__)[:3]
    tokens, labels = split.__getitems__(short)
    assert tokens.shape == (3, lengths[short[2]])
    assert tokens.dtype == torch.int64
    assert (tokens != 0).sum(1).tolist() == [lengths[index] for index in short]
    assert torch.equal(labels, split.labels[short])


def test_data_that_is_refused(tmp_path: Path) -> None:
    def refused(place: str, words: str) -> None:
        with pytest.raises(UserError, match=words) as error:
            load_text_splits(str(tmp_path / place), progress=False)
        assert "\n" not in str(error.value)

    write(tmp_path / "one", ["a", "b"], [0, 0])
    refused("one", "has training texts of neg only")
    (tmp_path / "pictures" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "train" / "cat" / "1.png").write_bytes(b"")
    refused("pictures", "holds no texts: put them into")
    write(tmp_path / "more" / "train", ["a", "b"], [0, 1])
    write(tmp_path / "more" / "test", ["a"], [0], ("odd",))
    refused("more", "has a class odd that .*train lacks")
    write(tmp_path / "latin", ["a", "b"], [0, 1])
    (tmp_path / "latin" / "pos" / "1.txt").write_bytes("caf\u00e9".encode("latin-1"))
    refused("latin", r"1\.txt is not UTF-8 text")
    refused("absent", "There is no data folder")

    tables = {
        "columns": (
            {"a": ["x"], "b": ["y"], "label": [0]},
            "one column of texts, called text; its columns are a, b, l",
        ),
        "unlabelled": ({"text": ["x"]}, "has no label column; its columns are text"),
        "holes": ({"text": ["x", None], "label": [0, 1]}, "rows without text"),
        "empty": ({"text": [], "label": []}, "parquet files in .*empty cannot be read"),
        "single": ({"text": ["x", "y"], "label": [1, 1]}, "training texts of 1 only"),
    }
    for name, (columns, words) in tables.items():
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / name / "train.parquet"))
        refused(name, words)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.parquet").write_bytes(b"PAR1")
    refused("torn", "parquet files in .*torn cannot be read")
    (tmp_path / "minus").mkdir()
    hidden = rows(4).cast_column("label", datasets.Value("int64")).map(lambda row: {"label": -1})
    hidden.cast_column("label", datasets.ClassLabel(names=list(CLASSES))).to_parquet(
        str(tmp_path / "minus/train.parquet")
    )
    refused("minus", "has labels from -1 to -1, but 2 classes")
    (tmp_path / "untrained").mkdir()
    rows(4).to_parquet(str(tmp_path / "untrained" / "test.parquet"))
    refused("untrained", "no 'train' split")


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_rule_is_learnt_and_a_stranger_can_use_the_model(trained: Path) -> None:
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert log[-1]["train"]["loss"] < 0.5 * log[0]["train"]["loss"]
    result = json.loads((trained / "result.json").read_text())
    assert result["test"]["top1"] >= 95
    assert (result["recipe"]["task"], result["test"]["images"]) == ("text", 60)

    words = Vocabulary.load(trained / "model")
    model = timm.create_model(f"local-dir:{trained / 'model'}", pretrained=True).eval()
    assert model.vocab_size == len(words)
    assert model.act.num_batches_tracked > 0
    assert tuple(model.pretrained_cfg["label_names"]) == CLASSES
    texts, labels = reviews(60, seed=1)
    with torch.inference_mode():
        right = model(words(texts)).argmax(1) == torch.tensor(labels)
    assert 100 * float(right.double().mean()) == pytest.approx(result["test"]["top1"])


@pytest.mark.parametrize("call", [3, 14, 20])  # before the first checkpoint, at an epoch's end, after one within it
def test_a_run_that_died_ends_with_the_same_bits(
    call: int, trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1, call))
    step = Trainer._optimizer_step

    def dying(trainer: Trainer) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        step(trainer)

    execution = Execution(progress=False, report=lambda _: None, checkpoint_steps=5, resume=True)
    monkeypatch.setattr(Trainer, "_optimizer_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run.train("textrcnn_nrelu", RECIPE, str(folder), tmp_path / "run", data_name=folder.name, execution=execution)
    monkeypatch.setattr(Trainer, "_optimizer_step", step)
    torch.randn(9)  # whatever else has drawn numbers
    run.train("textrcnn_nrelu", RECIPE, str(folder), tmp_path / "run", data_name=folder.name, execution=execution)
    for name in ("log.jsonl", "result.json", "model/config.json", "model/model.safetensors", "model/tokenizer.json"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes(), name


def layeract(*arguments: str) -> tuple[int, str]:
    """The command, as a user sees it; a mistake's message comes as the error it is."""
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", "textrcnn_nswish", "--task", "text", "-d", str(folder), "--epochs", "1", "--batch-size", "24"]
    code, out = layeract("train", *arguments, "--set", "max_tokens=20", "--dry-run")
    assert "max_tokens: 20" in out
    assert "padding" not in out  # which is of images
    assert code == 0
    for words in ("216 texts to train on, 24 held out, 60 to test on, of up to 20 tokens", "texts/s", "9 in 1 epochs"):
        assert words in out
    assert not list(tmp_path.iterdir())
    code, out = layeract("train", *arguments, "--set", "max_tokens=null", "--set", "vocab_size=12", "-o", "run")
    assert code == 0
    assert "texts/s" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["recipe"]["name"] == "imdb_textrcnn"
    assert len(Vocabulary.load(tmp_path / "run" / "model")) == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "-m", "resnet20", "--task", "text"], "resnet20 does not read texts; networks that do: textrcnn"),
        (["train", "-m", "textrcnn"], "textrcnn reads texts, and recipe cifar10_resnet is for classification"),
        (["train", "-m", "textrcnn_nrelu", "--task", "segmentation"], "segmentation_fast is for segmentation"),
        (["train", "-m", "textrcnn", "--task", "text", "--set", "flip=true"], "flip is not for text"),
        (["train", "-m", "textrcnn", "--task", "text", "--adversarial", "pgd"], "adversarial is not for text"),
        (["train", "-m", "textrcnn", "--task", "text", "--set", "channels_last=true"], "channels_last is not for"),
        (
            ["train", "-m", "textrcnn", "--task", "text", "--set", "max_tokens=0"],
            "max_tokens takes numbers from 1 to 1000000000, got 0",
        ),
        (["train", "-m", "textrcnn", "--task", "text", "-r", "cifar10_fast"], "for text: imdb_textrcnn"),
        (["train", "-m", "textrcnn", "--task", "text", "--num-classes", "1"], "labels up to 1 .*head has 1"),
        (["finetune", "-m", "textrcnn"], "textrcnn reads texts, and recipe finetune"),
        (["finetune", "-m", "textrcnn", "-r", "imdb_textrcnn"], "are not fine-tuned"),
        (["finetune", "-m", "local-dir:{model}"], "textrcnn_nrelu reads texts, and recipe finetune"),
        (["finetune", "-m", "local-dir:nowhere"], "local-dir:nowhere cannot be loaded"),
    ],
)
def test_commands_that_are_refused(
    arguments: list[str], words: str, folder: Path, trained: Path, tmp_path: Path
) -> None:
    given = [argument.format(model=trained / "model") for argument in arguments]
    code, error = layeract(*given, "-d", str(folder), "-o", str(tmp_path / "run"))
    assert code == 2
    assert "\n" not in error
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(error)
    assert not (tmp_path / "run").exists()


def test_what_else_is_for_images(folder: Path, trained: Path, tmp_path: Path) -> None:
    for key in ("max_tokens", "vocab_size"):
        with pytest.raises(UserError, match=f"{key} is not for classification"):
            load_recipe("cifar10_fast", **{key: 9})
    network = timm.create_model("textrcnn", vocab_size=50)
    with pytest.raises(UserError, match="TextRCNN reads texts, not images"):
        Classification(network, load_recipe("cifar10_fast"))
    split = load_text_splits(str(folder), progress=False)["train"]
    with pytest.raises(UserError, match=r"has 50 tokens, .* texts \d+; create it with vocab_size="):
        TextClassification(network, RECIPE, split)
    with pytest.raises(UserError, match="does not read texts"):
        TextClassification(timm.create_model("resnet20"), RECIPE, split)
    with pytest.raises(UserError, match="reads texts: only networks for images are measured here"):
        load_networks([str(trained)])
    with pytest.raises(UserError, match="has no feature maps, so it segments nothing"):
        load_segmenter(f"local-dir:{trained / 'model'}")
    with pytest.raises(UserError, match="Networks for texts are not adapted"):
        adapt(str(trained), data=str(folder), output=tmp_path / "adapted")
    with pytest.raises(UserError, match="was trained on texts"):
        embed_runs([trained], "imdb", tmp_path / "weights")
    assert not list(tmp_path.iterdir())
