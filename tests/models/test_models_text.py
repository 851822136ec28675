"""TextRCNN against its equations, written out word by word in float64; padding counts nowhere."""

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from timm_layeract import NormalizedAct, save_pretrained, swap_activations
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.models.plain_cnn import PLAIN_VARIANTS
from timm_layeract.models.text_rcnn import TEXT_NETWORKS

Array = NDArray[np.float64]
OURS = timm.list_models(module="text_rcnn")
LENGTHS = (7, 1, 4)


def create(name: str = "textrcnn_nrelu", **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, object] = dict(vocab_size=30, embed_dim=5, context_dim=4, width=6, drop_rate=0.0, num_classes=3)
    return timm.create_model(name, **{**options, **kwargs}).double()


def texts(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, padded: int = 7) -> Tensor:
    tokens = torch.randint(1, 30, (len(lengths), padded), generator=torch.Generator().manual_seed(seed))
    return tokens * (torch.arange(padded) < torch.tensor(lengths)[:, None])


def recurrence(lstm: nn.LSTM, words: list[Array]) -> list[Array]:
    """Hidden states of an LSTM after each word (gates in torch's order: input, forget, cell, output)."""
    weights = {name.removesuffix("_l0"): value.detach().numpy() for name, value in lstm.named_parameters()}
    hidden = cell = np.zeros(lstm.hidden_size)
    states = []
    for word in words:
        gates = weights["weight_ih"] @ word + weights["bias_ih"] + weights["weight_hh"] @ hidden + weights["bias_hh"]
        enter, forget, new, leave = np.split(gates, 4)
        cell = cell / (1 + np.exp(-forget)) + np.tanh(new) / (1 + np.exp(-enter))
        hidden = np.tanh(cell) / (1 + np.exp(-leave))
        states.append(hidden)
    return states


def hidden_of(model: nn.Module, text: list[int]) -> list[Array]:
    """What each word of one text, without padding, brings to the activation: equations 1 to 4 of Lai et al."""
    words = [model.embedding.weight.detach().numpy()[token] for token in text]
    nothing = np.zeros(model.before.hidden_size)
    before = [nothing, *recurrence(model.before, words)[:-1]]
    after = [*recurrence(model.after, words[::-1])[-2::-1], nothing]
    weight, bias = model.hidden.weight.detach().numpy(), model.hidden.bias.detach().numpy()
    return [weight @ np.concatenate(each) + bias for each in zip(before, words, after, strict=True)]


def words_of(tokens: Tensor) -> list[list[int]]:
    return [[token for token in row if token] for row in tokens.tolist()]


def test_registered_in_every_activation_of_the_plain_networks() -> None:
    assert sorted(OURS) == sorted(TEXT_NETWORKS) == sorted(f"textrcnn{suffix}" for suffix in PLAIN_VARIANTS)
    for suffix, acts in PLAIN_VARIANTS.items():
        (act,) = activation_fingerprint(create(f"textrcnn{suffix}")).values()
        mlp = activation_fingerprint(timm.create_model(f"mlp20x4{suffix}", device="meta"))
        assert act == next(iter(mlp.values())), acts


def test_sizes_are_lai_et_als() -> None:
    model = timm.create_model("textrcnn", device="meta")
    lstm = 4 * 50 * (50 + 50 + 2)  # torch has two biases
    expected = 30_000 * 50 + 2 * lstm + (150 + 1) * 100 + (100 + 1) * 2
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("name", ["textrcnn_nrelu", "textrcnn_nswish"])
def test_training_takes_its_statistics_from_the_words_alone(name: str) -> None:
    model, tokens = create(name).train(), texts()
    logits = model(tokens).detach().numpy()
    hidden = [np.stack(hidden_of(model, text)) for text in words_of(tokens)]
    x = np.concatenate(hidden).ravel()
    gate = 1 / (1 + np.exp(-x)) if name.endswith("swish") else (x > 0) * 1.0
    slope = gate + x * gate * (1 - gate)
    rho, rho_prime, mu = (x * gate).var() / x.var(), (slope**2).mean(), (x * gate).mean()
    running = [model.act.running_rho.item(), model.act.running_slope.item(), model.act.running_mean.item()]
    np.testing.assert_allclose(running, [rho, rho_prime, mu], rtol=1e-10)
    factor = np.sqrt((rho + rho_prime) / (2 * rho * rho_prime))
    weight, bias = model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy()
    for row, each in zip(logits, hidden, strict=True):
        gates = 1 / (1 + np.exp(-each)) if name.endswith("swish") else (each > 0) * 1.0
        np.testing.assert_allclose(row, weight @ (factor * (each * gates - mu)).max(0) + bias, rtol=1e-9, atol=1e-12)


def test_plain_activations_compute_the_equations() -> None:
    model, tokens = create("textrcnn_tanh").eval(), texts(1)
    weight, bias = model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy()
    expected = [weight @ np.tanh(hidden_of(model, text)).max(0) + bias for text in words_of(tokens)]
    np.testing.assert_allclose(model(tokens).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("name", OURS)
def test_padding_changes_nothing(name: str) -> None:
    tokens = texts(2)
    for training in (False, True):
        models = [create(name).train(training) for _ in range(2)]
        logits = models[0](tokens)
        torch.testing.assert_close(models[1](F.pad(tokens, (0, 9))), logits)
        for (key, value), other in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
            torch.testing.assert_close(other, value, msg=key)
        logits.square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in models[0].parameters())
    model = create(name).eval()
    alone = [model(torch.tensor([text])) for text in words_of(tokens)]
    torch.testing.assert_close(torch.cat(alone), model(tokens))


def test_swapping_makes_the_registered_network() -> None:
    model = create("textrcnn")
    report = swap_activations(model, "nrelu", placement="normalized")
    assert [entry.path for entry in report.swapped] == ["act"]
    assert isinstance(model.act, NormalizedAct)
    assert activation_fingerprint(model) == activation_fingerprint(create())


@pytest.mark.parametrize("name", ["textrcnn_nswish", "textrcnn_lasilu"])
def test_saving_heads_and_groups(name: str, tmp_path: Path) -> None:
    model, tokens = create(name).float().train(), texts()
    model(tokens)  # running statistics leave their start
    assert save_pretrained(model, tmp_path) == name
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert loaded.vocab_size == 30
    torch.testing.assert_close(loaded(tokens), model.eval()(tokens), rtol=0, atol=0)

    features = model.forward_features(tokens)
    assert features.shape == (3, model.num_features)
    torch.testing.assert_close(model.fc(model.forward_head(features, pre_logits=True)), model(tokens))
    model.reset_classifier(5)
    assert model(tokens).shape == (3, 5)
    model.reset_classifier(0)
    torch.testing.assert_close(model(tokens), features)
    model = create(name)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(groups) == dict(model.named_parameters()).keys()
    assert groups["embedding.weight"] == 0 < groups["after.bias_hh_l0"] < groups["hidden.weight"] < groups["fc.bias"]
    with pytest.raises(UserError, match="has no feature maps"):
        create(name, features_only=True)


def test_dropout_is_of_training_and_weights_are_drawn_by_name() -> None:
    model, tokens = create(drop_rate=0.5), texts()
    assert not torch.equal(model.train()(tokens), model(tokens))
    model.eval()
    torch.testing.assert_close(model(tokens), copy.deepcopy(model)(tokens), rtol=0, atol=0)
    for suffix, spread in (("_nrelu", (2 / 250) ** 0.5), ("", (2 / 150) ** 0.5), ("_relugpn", 150**-0.5)):
        torch.manual_seed(0)
        weight = timm.create_model(f"textrcnn{suffix}", vocab_size=9).hidden.weight.detach()
        assert float(weight.std()) == pytest.approx(spread, rel=0.03)


def test_bfloat16_autocast() -> None:
    model, tokens = create().float().train(), texts()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(logits.float(), create().float().train()(tokens), rtol=0.05, atol=0.05)
