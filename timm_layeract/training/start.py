"""The network that a run starts from."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..checkpoints.save import is_smp
from ..data.classes import label_names
from ..data.splits import Split
from ..errors import UserError
from ..layers import set_alpha
from ..networks import Source, parse_source
from .options import FINE_TUNING, FINE_TUNING_LARGE, LARGE_SIDE, TRAINING, RunOptions
from .recipe import Recipe
from .tasks import TASKS
from .tasks.text import check_reads_text

__all__ = ["Start"]


@dataclass(frozen=True)
class Start:
    """A network by name, as a run starts from it.

    Attributes:
        name: In the grammar of `networks.source`.
        pretrained: Start from the network's weights, with a new head where the classes differ, in number, or in name or
            order where the network names them.
        num_classes: Outputs of the head; the data's number of classes if None.
        alpha: Alpha of its LayerActs; the network's own if None.
    """

    name: str
    pretrained: bool = False
    num_classes: int | None = None
    alpha: float | None = None

    @classmethod
    def by_options(cls, name: str, options: RunOptions, pretrained: bool = False) -> "Start":
        """The network of that name, with the options of a run that concern it."""
        return cls(name, pretrained, options.num_classes, options.alpha)

    @property
    def weights(self) -> str | None:
        """Name of the weights that it starts from; None if they are initialised at random."""
        return self.name if self.pretrained else None

    @property
    def recipes(self) -> Mapping[str, str]:
        """Default recipes by task; networks for large images get one that crops photographs."""
        if not self.pretrained:
            return TRAINING
        sides = self.source.describe()[1].get("input_size", (3, 0, 0))[1:]
        return FINE_TUNING_LARGE if min(sides) > LARGE_SIDE else FINE_TUNING

    @property
    def source(self) -> Source:
        """What its name stands for; a UserError if it stands for nothing."""
        return parse_source(self.name)

    def check(self, recipe: Recipe) -> None:
        """Refuse (UserError) an unknown name, or a network that does not suit the recipe's task."""
        if not recipe.epochs and not recipe.steps:
            raise UserError(f"Recipe {recipe.name} trains for 0 epochs; give more.")
        check_reads_text(self.source.describe()[0], recipe, self.pretrained)
        if self.pretrained:
            self.source.check_weights()
        if self.alpha is not None:
            set_alpha(self.source.sketch(), self.alpha)

    def create(self, recipe: Recipe, split: Split) -> nn.Module:
        """The network for training data; its weights are drawn from torch's current random state."""
        classes = self.num_classes or len(split.classes)
        depth = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
        if self.pretrained:
            network = self.source.load(classes, **depth)
            names = label_names(network)
            if names and names != split.classes and len(names) == classes:  # as many outputs, but of other classes
                network = _with_new_head(network, classes)
        else:
            network = self.source.create(classes, **TASKS[recipe.task].network_args(split), **depth)
        if self.alpha is not None:
            set_alpha(network, self.alpha)
        return network


def _with_new_head(network: nn.Module, classes: int) -> nn.Module:
    if is_smp(network):
        from ..smp.by_name import with_classes

        with_head: nn.Module = with_classes(network, classes)
        return with_head
    network.reset_classifier(classes)  # type: ignore[operator]
    return network
