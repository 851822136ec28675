"""TextRCNN (Lai et al. 2015), the network for texts of the normalized activations' paper (section 3.4).

That paper says that it is trained from scratch on IMDB, and that padding is left out of the statistics. Layers and
sizes are those of Lai et al.; ours are dropout, and LSTMs in place of their plain recurrences, which do not reach
over reviews of hundreds of words. In the activations of `plain_cnn`.
"""

from typing import Any

import torch
from timm.layers import LayerType, get_act_layer
from torch import Tensor, nn
from torch.nn import functional as F

from .._utils.timm_types import DeviceAndDtype, PretrainedConfig
from ..layers import NormalizedAct
from ._builder import RecordsActivations, register_variants
from ._initialization import initialize
from ._linear_head import LinearHead
from .plain_cnn import PLAIN_VARIANTS

__all__ = ["PADDING", "TEXT_NETWORKS", "TextRCNN"]

PADDING = 0
"""Number of the token that fills a batch of texts up to one length."""


class TextRCNN(RecordsActivations, LinearHead):
    """Each word with what comes before and after it, through one hidden layer; the largest of each unit; a head.

    Equations 1 to 7 of Lai et al., with the activation in place of equation 4's tanh. A normalized activation takes
    its statistics from the words only, LayerAct normalises each word by itself: logits do not depend on the padding.

    Args:
        vocab_size: Tokens, padding among them.
        embed_dim: Size of a word's embedding.
        context_dim: Size of the context on each side.
        width: Units of the hidden layer.
        num_classes: Classes of the head; 0 for none.
        act_layer: Activation, as any timm `act_layer`.
        drop_rate: Dropout of the embedding and before the head.
        weight_init: ``"he"``, ``"xavier"`` or ``"orthogonal"``, see `models._initialization`; of the linear layers.

    Shape: token numbers ``(N, T)``, each text's at least one, followed by `PADDING`, to ``(N, num_classes)``.
    """

    def __init__(
        self,
        vocab_size: int = 30_000,
        embed_dim: int = 50,
        context_dim: int = 50,
        width: int = 100,
        num_classes: int = 2,
        act_layer: LayerType = nn.ReLU,
        drop_rate: float = 0.5,
        weight_init: str = "he",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: DeviceAndDtype = {"device": device, "dtype": dtype}
        self.vocab_size = vocab_size
        self.num_features = self.head_hidden_size = width
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=PADDING, **dd)
        self.before = nn.LSTM(embed_dim, context_dim, batch_first=True, **dd)
        self.after = nn.LSTM(embed_dim, context_dim, batch_first=True, **dd)
        self.hidden = nn.Linear(embed_dim + 2 * context_dim, width, **dd)
        self.act = get_act_layer(act_layer)().to(**dd)
        self.drop = nn.Dropout(drop_rate)
        self._set_head(num_classes, dd)
        initialize(self, weight_init)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        return dict(stem=r"^embedding", blocks=[(r"^before|^after", (0,)), (r"^hidden|^act", (1,))])

    def forward_features(self, tokens: Tensor) -> Tensor:
        """Token numbers ``(N, T)`` to the largest value of each hidden unit, ``(N, width)``."""
        is_word = (tokens != PADDING)[..., None]
        words = self.drop(self.embedding(tokens))
        hidden = self.hidden(torch.cat([self._before(words), words, self._after(words, is_word)], dim=2))
        # One row a word: to a LayerAct, each is a sample.
        rows, counted = hidden.flatten(0, 1), is_word.flatten(0, 1)
        rows = self.act(rows, counted) if isinstance(self.act, NormalizedAct) else self.act(rows)
        return rows.view_as(hidden).masked_fill(~is_word, float("-inf")).amax(1)

    def _before(self, words: Tensor) -> Tensor:
        """What each word follows, ``(N, T, context_dim)``: zeros for the first (equation 1)."""
        return F.pad(self.before(words)[0][:, :-1], (0, 0, 1, 0))

    def _after(self, words: Tensor, is_word: Tensor) -> Tensor:
        """What follows each word, likewise: zeros for the last (equation 2)."""
        # Every text is turned round by itself, its padding staying behind, so that the LSTM starts at its last word.
        backwards = (is_word.sum(1, keepdim=True) - is_word.cumsum(1)).clamp(min=0)
        turned = words.gather(1, backwards.expand_as(words))
        read = self.after(turned)[0]
        read = read.gather(1, backwards.expand_as(read)).masked_fill(~is_word, 0.0)
        return F.pad(read[:, 1:], (0, 0, 0, 1))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits, or to what the head reads with `pre_logits`."""
        x = self.drop(x)
        return x if pre_logits else self.fc(x)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(tokens))


TEXT_NETWORKS = tuple(f"textrcnn{suffix}" for suffix in PLAIN_VARIANTS)
"""Names of the networks that read texts."""

# timm's configs describe images; a text is one row of tokens there.
TEXT_CFG = PretrainedConfig(
    num_classes=2,
    input_size=(1, 1, 400),
    pool_size=None,
    mean=(0.0,),
    std=(1.0,),
    classifier="fc",
    license="apache-2.0",
)

register_variants(
    __name__,
    TextRCNN,
    {name: (acts, TEXT_CFG) for name, acts in zip(TEXT_NETWORKS, PLAIN_VARIANTS.values(), strict=True)},
    kwargs_filter=("in_chans",),  # of images: timm hands it to every network
)
