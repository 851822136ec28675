"""Recipes: what ships loads, what is wrong is refused by name; schedules against torch's."""

from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler

from timm_layeract.errors import UserError
from timm_layeract.training.optim import create_optimizer, create_schedule
from timm_layeract.training.recipe import Recipe, list_recipes, load_recipe, recipe_from_dict


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_load_name_their_source_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.source
    assert recipe_from_dict(recipe.to_dict(), "test") == recipe


def test_paper_recipe_runs_64000_iterations() -> None:
    recipe = load_recipe("cifar10_resnet")
    assert (recipe.steps, recipe.epochs, recipe.batch_size) == (64_000, None, 128)
    assert (recipe.lr, recipe.weight_decay, recipe.momentum, recipe.nesterov) == (0.1, 1e-4, 0.9, False)


def test_overrides_replace() -> None:
    recipe = load_recipe("cifar10_fast", epochs=3, milestones=[0.25])
    assert recipe.epochs == 3
    assert recipe.lr == load_recipe("cifar10_fast").lr
    with pytest.raises(UserError, match="seed must be a whole number, got None"):
        load_recipe("cifar10_fast", seed=None)
    assert recipe.milestones == (0.25,)
    shorter = load_recipe("cifar10_resnet", epochs=3)
    assert (shorter.epochs, shorter.steps) == (3, None)
    assert (shorter.replace(steps=7).epochs, shorter.replace(steps=7).steps) == (None, 7)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 0.1}, ["unknown key", "learning_rate"]),
        ({"epoch": 3}, ["unknown key", "'epochs'"]),
        ({"epochs": "many"}, ["epochs", "whole number", "many"]),
        ({"epochs": 2.5}, ["epochs", "whole number"]),
        ({"epochs": -1}, ["epochs", "from 0"]),
        ({"optimizer": "lion"}, ["optimizer", "sgd", "adamw"]),
        ({"nesterov": "yes please"}, ["nesterov", "bool"]),
        ({"momentum": True}, ["momentum", "float"]),
        ({"warmup": 1.0}, ["warmup", "below 1"]),
        ({"milestones": [0.5, 1.5]}, ["milestones", "below 1"]),
        ({"image_size": [32]}, ["image_size", "2 entries"]),
        ({"image_size": 32}, ["image_size", "list"]),
        ({"progressive_sizes": [32, 48]}, ["progressive_sizes", "list", "32"]),
        ({"progressive_sizes": [[0.7, 32], [0.4, 48]]}, ["progressive_sizes", "rising fractions"]),
        ({"progressive_sizes": [[0.5, 0]]}, ["progressive_sizes", "sides in pixels"]),
        ({"epochs": None}, ["epochs or steps"]),
        ({"steps": 100}, ["not both"]),
        ({"scale": [0.1, 1.0]}, ["scale", "train_crop_mode"]),
        ({"auto_augment": "rand-m9"}, ["auto_augment", "train_crop_mode"]),
        ({"train_crop_mode": "crop"}, ["train_crop_mode", "rrc"]),
        ({"train_crop_mode": "rrc", "padding": 2}, ["padding", "random crops"]),
        ({"train_crop_mode": "rrc", "scale": [0.5, 0.1]}, ["scale", "least", "0.5"]),
        ({"train_crop_mode": "rrc", "scale": [0.5, 2]}, ["scale", "to 1"]),
        ({"train_crop_mode": "rrc", "ratio": [0.5]}, ["ratio", "2 entries"]),
        ({"train_crop_mode": "rrc", "auto_augment": "trivial"}, ["auto_augment", "timm's notation", "trivial"]),
        ({"train_crop_mode": "rrc", "auto_augment": "rand-mx"}, ["auto_augment", "rand-mx"]),
        ({"train_crop_mode": "rrc", "color_jitter": -1}, ["color_jitter", "from 0"]),
        ({"mixup": -0.1}, ["mixup", "from 0"]),
        ({"mixup_prob": 1.1}, ["mixup_prob", "to 1"]),
        ({"mixup_mode": "half"}, ["mixup_mode", "batch", "elem"]),
        ({"crop_pct": 0}, ["crop_pct", "above 0"]),
        ({"interpolation": "nearest-ish"}, ["interpolation", "bicubic"]),
        ({"bce_target_thresh": 0.2}, ["bce_target_thresh", "bce_loss"]),
        ({"aug_repeats": 0}, ["aug_repeats", "from 1"]),
        ({"epochs": None, "steps": 0}, ["steps", "from 1"]),
    ],
)
def test_wrong_values_are_refused_in_one_line(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        recipe_from_dict({"epochs": 1, **values}, "mine.yaml")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


OTHERS = {
    "label_smoothing": 0.1, "channels_last": True, "image_size": [8, 8], "progressive_sizes": [[0.5, 16]],
    "ten_crop": [9, 9], "padding": 4, "flip": True, "random_erasing": 0.2, "adversarial": "fgsm",
    "adversarial_epsilon": 4.0, "train_crop_mode": "rrc", "test_size": [9, 9], "crop_pct": 0.9, "mixup": 0.2,
    "bce_loss": True, "aug_repeats": 3, "drop_path": 0.1,
    "masks": "binary", "class_names": ["a", "b"], "vocab_size": 9, "max_tokens": 9,
}  # fmt: skip
OF_CLASSIFIERS = {
    "train_crop_mode", "test_size", "crop_pct", "mixup", "bce_loss", "aug_repeats", "drop_path"
}  # fmt: skip
FOREIGN = {
    "classification": {"masks", "class_names", "vocab_size", "max_tokens"},
    "segmentation": {
        "label_smoothing", "ten_crop", "padding", "random_erasing", "adversarial", "adversarial_epsilon", "vocab_size",
        "max_tokens", *OF_CLASSIFIERS,
    },
    "text": {
        "channels_last", "image_size", "progressive_sizes", "ten_crop", "padding", "flip", "random_erasing",
        "adversarial", "adversarial_epsilon", "masks", "class_names", *OF_CLASSIFIERS,
    },
}  # fmt: skip


@pytest.mark.parametrize("task", FOREIGN)
@pytest.mark.parametrize("key", OTHERS)
def test_keys_of_other_tasks_are_refused_where_they_ask_for_something(task: str, key: str) -> None:
    values = {"epochs": 1, "task": task}
    if key in FOREIGN[task]:
        with pytest.raises(UserError, match=f"{key} is not for {task}; leave it out"):
            recipe_from_dict({**values, key: OTHERS[key]}, "mine")
    else:
        assert recipe_from_dict({**values, key: OTHERS[key]}, "mine").to_dict()[key] == OTHERS[key]


@pytest.mark.parametrize("task", FOREIGN)
def test_recipes_hold_all_keys_those_of_other_tasks_asking_for_nothing(task: str) -> None:
    recipe = recipe_from_dict({"epochs": 1, "task": task}, "mine")
    given = recipe.to_dict()
    nothing = (None, False, 0, 8.0, "none", [])  # adversarial_epsilon alone says nothing
    assert all(given[key] in nothing for key in FOREIGN[task] - OF_CLASSIFIERS)
    assert not OF_CLASSIFIERS & {*given}  # which came later, and leave results as they were
    defaults = {"classification": (4, True), "segmentation": (0, True), "text": (0, False)}
    assert (given["padding"], given["flip"]) == defaults[task]
    assert recipe_from_dict(given, "mine") == recipe


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 2\nweight_decay: 1e-4\nmixed_precision: no\nimage_size: [24, 24]\n")
    recipe = load_recipe(str(path))
    # YAML reads 1e-4 as text and a bare `no` as False; both mean what they say
    assert (recipe.name, recipe.weight_decay, recipe.mixed_precision, recipe.image_size) == (
        "mine",
        1e-4,
        "no",
        (24, 24),
    )
    path.write_text("epochs: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(str(path))
    path.write_text("- epochs")
    with pytest.raises(UserError, match="key: value"):
        load_recipe(str(path))
    with pytest.raises(UserError, match="no recipe file"):
        load_recipe(str(tmp_path / "absent.yaml"))
    with pytest.raises(UserError, match="did you mean 'cifar10_fast'"):
        load_recipe("cifar10_fats")


def rates(recipe: Recipe, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    schedule = create_schedule(optimizer, recipe, steps)
    out = []
    for _ in range(steps):
        out.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return out


def test_schedules_are_torchs() -> None:
    steps = 1000
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)

    multistep = rates(Recipe(epochs=1, lr=0.4, schedule="multistep", milestones=(0.5, 0.75)), steps)
    reference = lr_scheduler.MultiStepLR(optimizer, [500, 750])
    expected = []
    for _ in range(steps):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert multistep == pytest.approx(expected)

    one_cycle = rates(Recipe(epochs=1, lr=0.4, schedule="one-cycle", warmup=0.3), steps)
    reference = lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=steps, pct_start=0.3, anneal_strategy="linear", div_factor=1e9, final_div_factor=1e9
    )
    expected = []
    for _ in range(steps):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert one_cycle == pytest.approx(expected, abs=0.4 * 2 / steps / 0.3)

    cosine = rates(Recipe(epochs=1, lr=0.4, schedule="cosine", warmup=0.0), steps)
    expected = [0.2 * (1 + torch.cos(torch.tensor(torch.pi * (step + 0.5) / steps)).item()) for step in range(steps)]
    assert cosine == pytest.approx(expected, abs=1e-6)


def test_optimizer_follows_the_recipe() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    sgd = create_optimizer(model, Recipe(epochs=1, optimizer="sgd", nesterov=False, momentum=0.8, weight_decay=0.1))
    assert isinstance(sgd, torch.optim.SGD)
    assert [(group["nesterov"], group["momentum"], group["weight_decay"]) for group in sgd.param_groups] == [
        (False, 0.8, 0.1)
    ]
    assert create_optimizer(model, Recipe(epochs=1, nesterov=True)).param_groups[0]["nesterov"]
    adamw = create_optimizer(model, Recipe(epochs=1, optimizer="adamw", weight_decay=0.1, decay_norm_and_bias=False))
    decayed = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in adamw.param_groups}
    assert isinstance(adamw, torch.optim.AdamW)
    assert decayed == {0.1: 3 * 4 * 9, 0.0: 4 + 4 + 4}
