"""Labelled texts as numbered words: from a Hub data set, a folder of parquet files, or a folder of text files.

A split is held in memory. Words are numbered from the training texts alone; `Vocabulary` keeps the numbers with a
model. Splitting words needs `pip install 'timm-layeract[text]'`.
"""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import datasets
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .._utils.files import read_text
from .._utils.progress import tracked
from .._utils.writing import write_whole
from ..errors import UserError
from ..models.text_rcnn import PADDING
from .columns import read_labels
from .opening import hidden_labels, is_data_set, open_data_set, split_roles, training_roles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TextSplit", "Vocabulary", "load_text_splits"]

SPECIAL = ("[PAD]", "[UNK]")  # tokens 0 and 1; no text splits into them, as words are in lower case
UNKNOWN = 1
UNLABELLED = "unsup"  # folder of texts without a label in the IMDB archive


class Vocabulary:
    """Numbers of words: lower-case, split at spaces and punctuation; what is no word of it is `UNKNOWN`.

    ``tokenizer.json`` in a model's folder keeps it, which tokenizers and transformers read too.

    >>> words = Vocabulary.load("runs/imdb/model")
    >>> model(words(["A film to forget.", "Moving."]))

    Args:
        tokenizer: A word-level one that cuts texts at the length that the network is trained on.
    """

    FILE = "tokenizer.json"

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer

    @classmethod
    def learn(cls, texts: Iterable[str], size: int | None, max_tokens: int | None) -> "Vocabulary":
        """Number the most frequent words of some texts.

        Args:
            texts: Training texts.
            size: Tokens in all, the two special ones among them; None for every word.
            max_tokens: Tokens that are kept of a text, its first; None for all.
        """
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

        def tokenizer(model: models.WordLevel) -> Tokenizer:
            made = Tokenizer(model)
            steps = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("<br />", " ")]  # IMDB has some
            made.normalizer = normalizers.Sequence(steps)
            made.pre_tokenizer = pre_tokenizers.Whitespace()
            return made

        counted = tokenizer(models.WordLevel())
        trainer = trainers.WordLevelTrainer(
            vocab_size=size or sys.maxsize, special_tokens=list(SPECIAL), show_progress=False
        )
        counted.train_from_iterator(texts, trainer)
        # Without special tokens, which a tokenizer would find in texts that spell them.
        final = tokenizer(models.WordLevel(counted.get_vocab(), unk_token=SPECIAL[UNKNOWN]))
        if max_tokens is not None:
            final.enable_truncation(max_tokens)
        return cls(final)

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """The vocabulary in a model's folder.

        Raises:
            UserError: There is none, or it cannot be read.
        """
        from tokenizers import Tokenizer

        path = Path(folder) / cls.FILE
        if not path.is_file():
            raise UserError(f"{folder} holds no {cls.FILE}: name the folder of a text network that was trained here.")
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises nothing more special
            raise UserError(f"{path} is not a vocabulary ({error}).") from error

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        write_whole(folder / self.FILE, self._tokenizer.to_str(pretty=True))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token numbers ``(N, T)``, int64, shorter texts padded behind; a text without words is one unknown."""
        return pad(self.encode(texts))

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Token numbers of each text, int32 ``(T,)``; a text without words is one unknown."""
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        return [torch.tensor(text.ids or [UNKNOWN], dtype=torch.int32) for text in encoded]

    def sha256(self) -> str:
        """Hash of the words in their order."""
        numbers = self._tokenizer.get_vocab()
        return hashlib.sha256("\n".join(sorted(numbers, key=numbers.__getitem__)).encode()).hexdigest()


def pad(tokens: Sequence[Tensor]) -> Tensor:
    """Texts of any lengths as one int64 ``(N, T)``, filled with `PADDING`."""
    return pad_sequence(list(tokens), batch_first=True, padding_value=PADDING).long()


@dataclass(frozen=True)
class TextSplit(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Labelled texts in memory; a torch dataset that hands out batches padded to their longest text.

    Attributes:
        tokens: Numbers of the words, int32, each ``(T,)``.
        labels: int64, ``(N,)``, indices into `classes`.
        classes: Label names.
        vocabulary: What the numbers mean.
    """

    workers: ClassVar[int] = 0  # data in memory is read fastest by the process that needs it

    tokens: tuple[Tensor, ...]
    labels: Tensor
    classes: tuple[str, ...]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tokens[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return pad([self.tokens[index] for index in indices]), self.labels[torch.as_tensor(indices)]

    def take(self, indices: Tensor) -> "TextSplit":
        """The split of these rows only."""
        tokens = tuple(self.tokens[index] for index in indices.tolist())
        return TextSplit(tokens, self.labels[indices], self.classes, self.vocabulary)

    def sha256(self) -> str:
        """Hash of words, texts and labels: the data's identity in results."""
        digest = hashlib.sha256(self.vocabulary.sha256().encode())
        for text in (*self.tokens, self.labels):
            digest.update(f"{len(text)} ".encode())
            digest.update(text.numpy().tobytes())
        return digest.hexdigest()


class _Texts(NamedTuple):
    """Texts of a split as they were read."""

    texts: list[str]
    labels: list[int]
    classes: tuple[str, ...]


def load_text_splits(
    source: str,
    vocab_size: int | None = None,
    max_tokens: int | None = None,
    progress: bool = True,
    label: str | None = None,
) -> dict[str, TextSplit]:
    """Read labelled texts and number their words.

    Args:
        source: Folder of ``train/CLASS/*.txt`` (and ``test/CLASS/*.txt``) or of ``CLASS/*.txt``, in UTF-8; folder of
            parquet files named after their split, or one that `datasets` saved, or Hub data set id
            (``stanfordnlp/imdb``), with a column ``text`` and a column ``label``.
        vocab_size: Tokens of the vocabulary, the most frequent of the training split; None for all.
        max_tokens: Tokens that are kept of a text; None for all.
        progress: Show a progress bar while files are read.
        label: Column of the labels of a data set, where several may be meant.

    Returns:
        ``"train"``; where there is a test split (or only a validation split), ``"test"``; and a validation split
        beside that, ``"validation"``.

    Raises:
        UserError: No such folder or data set, no texts, no labels, one class only, no training split, a file that is
            no UTF-8, a row without text or label.
    """
    folder = Path(source)
    in_files = folder.is_dir() and not is_data_set(folder)
    splits = _read_folder(folder, progress) if in_files else _read_data_set(source, label)
    train = splits["train"]
    found = sorted({train.classes[label] for label in train.labels})
    if len(found) < 2:
        raise UserError(
            f"{source} has training texts of {''.join(found) or 'no class'} only; give two classes or more."
        )
    vocabulary = Vocabulary.learn(train.texts, vocab_size, max_tokens)
    return {
        name: TextSplit(tuple(vocabulary.encode(read.texts)), torch.tensor(read.labels), train.classes, vocabulary)
        for name, read in splits.items()
    }


def _read_folder(folder: Path, progress: bool) -> dict[str, _Texts]:
    """The text files of a folder of classes, or of folders of classes called train and test."""
    places = {"train": folder}
    if (folder / "train").is_dir():
        roles = split_roles(path.name for path in folder.iterdir() if path.is_dir())
        places = {role: folder / name for role, name in roles.items()}
    found = {name: _class_files(place) for name, place in places.items()}
    classes = tuple(found["train"])
    if not classes:
        raise UserError(
            f"{places['train']} holds no texts: put them into train/CLASS/*.txt or CLASS/*.txt, or into parquet files "
            f"with a column text and a column label."
        )
    splits = {}
    for name, by_class in found.items():
        unknown = [each for each in by_class if each not in classes]
        if unknown:
            raise UserError(f"{places[name]} has a class {unknown[0]} that {places['train']} lacks.")
        files = [(path, classes.index(each)) for each, paths in by_class.items() for path in paths]
        texts = [_read_text(path) for path, _ in tracked(files, f"reading {len(files)} texts", progress)]
        splits[name] = _Texts(texts, [label for _, label in files], classes)
    return splits


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Text files by class, without the folder of unlabelled texts."""
    places = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != UNLABELLED)
    files = {place.name: sorted(place.glob("*.txt")) for place in places}
    return {name: paths for name, paths in files.items() if paths}


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); convert or remove it.") from error


def _read_data_set(source: str, label: str | None) -> dict[str, _Texts]:
    """The text and label columns of a data set's splits."""
    loaded = open_data_set(source)
    roles = training_roles(loaded, source, hidden_labels(loaded))
    train = _read_columns(loaded["train"], source, label, ())
    read = {
        role: _read_columns(loaded[name], f"{source} {name}", label, train.classes)
        for role, name in roles.items()
        if role != "train"
    }
    return {"train": train, **read}


def _read_columns(rows: datasets.Dataset, source: str, label: str | None, classes: tuple[str, ...]) -> _Texts:
    """Texts and labels of a split; `classes` are those of the training split, none for that one itself."""
    strings = [name for name, feature in rows.features.items() if getattr(feature, "dtype", "").endswith("string")]
    strings = [name for name in strings if name != "label"]
    text = "text" if "text" in strings else strings[0] if len(strings) == 1 else None
    if text is None:
        raise UserError(
            f"{source} needs one column of texts, called text; its columns are {', '.join(rows.features)}. "
            f"Images are trained on without --task text."
        )
    texts = list(rows[text])
    if None in texts:
        raise UserError(f"{source} has rows without {text}; remove them.")
    labels, names = read_labels(rows, source, label, classes)
    return _Texts(texts, labels.tolist(), names)
