"""Classification of texts as a task: batches padded to their longest text, cross-entropy, top-1 accuracy.

Nothing is augmented.
"""

from pathlib import Path

from torch import Tensor, nn

from ..._utils.timm_types import PretrainedConfig
from ...data.augment import SampleRandom
from ...data.texts import TextSplit, load_text_splits
from ...errors import UserError
from ...models.text_rcnn import TEXT_NETWORKS, TextRCNN
from ..recipe import Recipe
from .classification import Classification, check_labels

__all__ = ["TextClassification", "check_reads_text"]


class TextClassification(Classification):
    """Cross-entropy on labelled texts; top-1 accuracy in percent.

    Args:
        model: `TextRCNN` with as many tokens as the vocabulary has.
        recipe: Vocabulary, length of the texts and label smoothing.
        train: Whose labels must fit the model's head, and whose vocabulary is saved with the model.

    Raises:
        UserError: Another network, labels outside its head, another number of tokens.
    """

    samples = "texts"

    def __init__(self, model: nn.Module, recipe: Recipe, train: TextSplit) -> None:
        if not isinstance(model, TextRCNN):
            raise UserError(
                f"{type(model).__name__} does not read texts; networks that do: {', '.join(TEXT_NETWORKS)}."
            )
        check_labels(model, train)
        if model.vocab_size != len(train.vocabulary):
            raise UserError(
                f"The network has {model.vocab_size} tokens, the vocabulary of its texts {len(train.vocabulary)}; "
                f"create it with vocab_size={len(train.vocabulary)}."
            )
        self.recipe, self.vocabulary = recipe, train.vocabulary
        self.extent = f"of up to {recipe.max_tokens} tokens" if recipe.max_tokens else "of any length"

    @staticmethod
    def splits(  # type: ignore[override]
        source: str, recipe: Recipe, config: PretrainedConfig, progress: bool, labelled: bool = True
    ) -> dict[str, TextSplit]:
        """The data set with its labels, in any case; its words are numbered by the training texts."""
        return load_text_splits(source, recipe.vocab_size, recipe.max_tokens, progress, recipe.label_column)

    @staticmethod
    def network_args(train: TextSplit) -> dict[str, int]:  # type: ignore[override]
        """The number of tokens."""
        return {"vocab_size": len(train.vocabulary)}

    def inputs(
        self, batch: tuple[Tensor, ...], random: SampleRandom | None, side: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The batch as it is."""
        tokens, labels = batch
        return tokens, labels

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Logits."""
        return network(inputs).float()

    def save(self, folder: Path) -> None:
        """Write the vocabulary."""
        self.vocabulary.save(folder)


def check_reads_text(name: str, recipe: Recipe, pretrained: bool) -> None:
    """Refuse (UserError) a network by name that reads texts where the recipe is for images, or the other way round."""
    if recipe.task == "text" and pretrained:
        raise UserError(
            "Networks for texts are not fine-tuned, as their words are numbered by the data that they were trained on; "
            "train a new one: layeract train --task text."
        )
    if name in TEXT_NETWORKS and recipe.task != "text":
        raise UserError(
            f"{name} reads texts, and recipe {recipe.name} is for {recipe.task}: layeract train --task text."
        )
    if recipe.task == "text" and name not in TEXT_NETWORKS:
        raise UserError(f"{name} does not read texts; networks that do: {', '.join(TEXT_NETWORKS)}.")
