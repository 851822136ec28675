"""swap_activations where the activation is a function that a forward calls: each spelling, and what is left alone."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from tests.functional_calls import IMAGE, SPELLINGS, Calls, network
from timm_layeract import LAHardSiLU, LASiLU
from timm_layeract.swap import swap_activations


def module_level_helper(x):
    return F.elu(x)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_functional_spellings(spelling):
    model = network(SPELLINGS[spelling])
    report = swap_activations(model, "lasilu")
    assert len(report.swapped) == 1
    assert torch.equal(model(IMAGE), LASiLU()(model.conv(IMAGE)))
    assert list(model.state_dict()) == ["conv.weight", "conv.bias"]


def test_garbage_of_others_is_not_taken_for_the_method():
    """A collection that falls into the trace runs finalizers (tqdm's, say), which may branch as they like."""

    class Bar:
        def __init__(self):
            self.itself = self

        def __del__(self):
            finalized.append(1 if IMAGE.numel() else 0)

    def forward(self, x):
        gc.set_threshold(1)
        return F.silu(self.conv(x))

    finalized, threshold = [], gc.get_threshold()
    gc.set_threshold(0)
    try:
        Bar()
        model = network(forward)
        swap_activations(model, "lasilu")
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert finalized
    assert isinstance(model.functional_silu, LASiLU)


def test_in_place_calls_reach_later_readers():
    def forward(self, x):
        x = self.conv(x)
        before = x * 2
        x.relu_()
        return before, x + 1

    model = network(forward)
    swap_activations(model, "lasilu")
    y = model.conv(IMAGE)
    before, after = model(IMAGE)
    assert torch.equal(before, y * 2)
    assert torch.equal(after, LASiLU()(y) + 1)


def test_helpers_overridden_and_other_methods():
    class Base(Calls):
        def features(self, x):
            return torch.relu(self.conv(x))

        def forward(self, x):
            return module_level_helper(self.features(x)) + 1

    class Derived(Base):
        def forward(self, x):
            return super().forward(x)

    model = Derived()
    report = swap_activations(model, "lasilu", source=["elu", "relu"])
    assert not report.left_alone
    y = LASiLU()(model.conv(IMAGE))
    assert torch.equal(model(IMAGE), LASiLU()(y) + 1)
    assert torch.equal(model.features(IMAGE), y)  # called by itself too


def test_loops_and_structure_conditions():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
            self.last = 2
            self.down = None

        def forward(self, x):
            for i, layer in enumerate(self.layers):
                x = F.relu(layer(x)) if i < self.last else layer(x)
            return x if self.down is None else self.down(x)

    model = Mlp()
    assert len(swap_activations(model, "lasilu").swapped) == 2
    x = torch.randn(4, 3)
    layers, act = model.layers, LASiLU()
    assert torch.equal(model(x), layers[2](act(layers[1](act(layers[0](x))))))
    model.last = 1  # what the trace was made with may not change unseen
    with pytest.raises(RuntimeError, match="last=2: set them before swapping"):
        model(x)


def by_training(self, x):
    if self.training:
        x = F.relu(x)
    return F.relu(self.conv(x))


def by_training_dropout(self, x):
    return F.dropout(F.relu(self.conv(x)), 0.5, self.training)


def by_data(self, x):
    return F.relu(self.conv(x)) if x.sum() > 0 else x


def by_argument(self, x, mask=None):
    if mask is not None:
        x = x * mask
    return F.relu(self.conv(x))


def by_type(self, x):
    return F.relu(self.conv(x if isinstance(x, torch.Tensor) else x[0]))


def by_filter(self, x):
    return sum([F.relu(self.conv(part)) for part in [x, -x] if part.sum() > 0])


def with_side_effect(self, x):
    self.seen = x
    return F.relu(self.conv(x))


def with_context(self, x):
    with torch.no_grad():
        return F.relu(self.conv(x))


def with_noise(self, x):
    return F.relu(self.conv(x)) + torch.randn(1)


def through_a_view(self, x):
    x = self.conv(x)
    x.flatten(1).relu_()
    return x


def _without_source():
    names = {"F": F}
    exec("def without_source(self, x):\n    return F.relu(self.conv(x))", names)
    return names["without_source"]


without_source = _without_source()


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (by_training, "differs between training and evaluation"),
        (by_training_dropout, "differs between training and evaluation"),
        (by_data, "branches"),
        (by_argument, "branches"),
        (by_type, "branches"),
        (by_filter, "branches"),
        (without_source, "no source"),
        (with_side_effect, "writes to an attribute"),
        (with_context, "with statement"),
        (with_noise, "constant"),
        (through_a_view, "read under another name"),
        (torch.no_grad()(SPELLINGS["F.relu"]), "decorated"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_trace_cannot_stand_for_is_left_alone(forward, reason):
    model = nn.Sequential(network(forward), nn.ReLU())
    kind, state = type(model[0]), dict(vars(model[0]))
    report = swap_activations(model, "lasilu")
    assert [e.path for e in report.swapped] == ["1"]
    assert reason in report.left_alone[0].reason
    assert "forward" in report.left_alone[0].old
    assert type(model[0]) is kind
    assert vars(model[0]) == state


def test_a_graph_module_is_left_alone_but_its_children_are_not():
    model = nn.Sequential(network(SPELLINGS["F.relu"]), nn.ReLU())
    report = swap_activations(fx.symbolic_trace(model), "lasilu")
    assert [e.path for e in report.swapped] == ["1"]
    assert "swap before tracing" in report.left_alone[0].reason


def test_function_attributes_and_functional_gates():
    class Gate(Calls):
        def forward(self, x):
            return torch.sigmoid(self.conv(x)) * self.call(self.conv(x))

    model = Gate(F.relu)
    report = swap_activations(model, "lasilu")
    assert [e.path for e in report.swapped] == ["call"]
    assert torch.equal(model(IMAGE), torch.sigmoid(model.conv(IMAGE)) * LASiLU()(model.conv(IMAGE)))
    assert [e.path for e in swap_activations(model, "hard_sigmoid", source="sigmoid").swapped] == ["functional_sigmoid"]


def test_functional_swap_survives_copies_compile_and_a_second_swap(tmp_path):
    model = nn.Sequential(network(SPELLINGS["F.relu"]), network(SPELLINGS["F.relu"]))
    model[1].conv = nn.Conv2d(4, 4, 1)
    swap_activations(model, "lasilu")
    assert type(model[0]).__name__ == "Network"
    expected = model(IMAGE)
    assert torch.equal(copy.deepcopy(model)(IMAGE), expected)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGE), expected)  # compiled from plain operations
    copied = copy.deepcopy(model)
    swap_activations(copied, "lahardsilu", exclude="1.*")
    assert torch.equal(model(IMAGE), expected)
    assert [type(copied[i].functional_relu) for i in (0, 1)] == [LAHardSiLU, LASiLU]
