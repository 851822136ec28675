"""Recipes: every choice of a training run in one frozen dataclass, read from YAML, refusing what it does not know."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from .._utils.files import read_text
from .._utils.kinds import as_kind
from .._utils.options import shortened
from .._utils.plain_yaml import read_yaml
from ..checkpoints.records import SeededRecipe
from ..errors import UserError, did_you_mean
from .bounds import BOUNDS, RATES, SEEDS, check_auto_augment
from .recipe_keys import PICTURES, TaskName, key_of, photograph_key

__all__ = ["RATES", "SEEDS", "Recipe", "list_recipes", "load_recipe"]

RECIPES = Path(__file__).parent / "recipes"
CROPS = ("scale", "ratio", "train_interpolation", "color_jitter", "auto_augment")  # keys of random crops alone
HOW_KEYS = ("cuda_graph", "data_on_device")  # which leave the outcome as it is


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a run besides the model and the data; some keys are for some tasks only.

    Attributes:
        name: Name in results; the file's stem.
        source: Where the recipe comes from: a paper and section, or our own.
        task: ``classification`` of images, ``segmentation``, a class for each pixel, or ``text``, classes of texts.
        epochs: Passes over the training images (0 where a network is adapted by its statistics alone); None if `steps`
            gives the length of the run.
        steps: Optimizer steps in total; None if `epochs` gives the length of the run.
        batch_size: Images in one optimizer step, over all processes.
        accumulate: Number of parts in which a process takes its share of a batch, if memory does not hold it at once.
        seed: Seeds initialisation, held-out images, order and augmentation.
        optimizer: ``sgd`` (with `momentum`, optionally `nesterov`), ``adam``, ``adamw`` or ``lamb`` (You et al. 2020).
        lr: Peak learning rate.
        momentum: Momentum of SGD.
        nesterov: Use Nesterov momentum.
        weight_decay: L2 penalty (decoupled in AdamW).
        decay_norm_and_bias: Apply `weight_decay` to normalisation parameters and biases too.
        schedule: ``multistep`` (`lr` times 0.1 at each of `milestones`), ``cosine`` (linear warm-up, cosine to 0) or
            ``one-cycle`` (linear up, linear down to 0).
        milestones: Fractions of the run at which ``multistep`` drops.
        warmup: Fraction of the run in which ``cosine`` and ``one-cycle`` rise.
        label_smoothing: Share of the target spread over all classes.
        ema_decay: Decay of the moving average of the weights, which is evaluated and saved; 0 for no average.
        mixed_precision: ``no``, ``bf16`` or ``fp16`` autocast.
        channels_last: Memory format of the network.
        sync_batch_norm: Take batch statistics over all processes; BatchNorm's on GPUs or in a fused network only.
        image_size: (H, W) of the input; the model's own if None.
        progressive_sizes: Smaller training images at first (progressive learning, Tan & Le 2021): pairs of the fraction
            of the epochs up to which they are used, and their shorter side; `image_size` after that.
        ten_crop: (H, W) that test images are resized to, of which ten crops of the input's size are averaged (corners
            and centre, and mirrored; Krizhevsky et al. 2012); None for one look at the whole image.
        padding: Pixels of padding before whole images are cropped at random; not used with `train_crop_mode`.
        flip: Mirror half of the images; in segmentation, also rotate them by multiples of 90 degrees.
        random_erasing: Probability that a rectangle of an image is set to the mean colour (Zhong et al. 2017).
        train_crop_mode: Crop photographs at random from their files, by timm's transforms: ``rrc`` (random resized
            crops, Szegedy et al. 2015), ``rkrc`` or ``rkrr`` (that keep the shape); None for whole images, cropped by
            `padding`. Keys from here to `drop_path` have timm's names, and enter results only if given.
        scale: Least and largest share of the area in random crops; timm's (0.08 to 1) if None.
        ratio: Least and largest aspect ratio of random crops; timm's (3/4 to 4/3) if None.
        train_interpolation: How random crops are resized; ``random`` is bilinear or bicubic.
        color_jitter: Range of brightness, contrast and saturation of random crops; not used with `auto_augment`.
        auto_augment: Augmentation of random crops in timm's notation: ``rand-m7-mstd0.5-inc1`` (RandAugment),
            ``augmix-m3-w3`` (AugMix), ``original``, ``3a``, ...
        test_size: (H, W) of held-out and test images, `image_size` if None, or where that is None too, the network's.
        crop_pct: Share of the resized held-out and test images that is kept; that of the network's config if None, or
            all of it where `image_size` is given and there is no `train_crop_mode`.
        crop_mode: How these are cropped: ``center``, ``squash`` or ``border``; as in the network's config if None. In
            segmentation, ``squash`` resizes all images and masks to `image_size`; None trains on windows of that size.
        interpolation: How these are resized; as in the network's config if None.
        mixup: Alpha of mixing whole images (Zhang et al. 2018), 0 for none.
        cutmix: Alpha of mixing rectangles (Yun et al. 2019), 0 for none. Images are mixed with others of the same
            process and part of a batch.
        mixup_prob: Probability of mixing at all.
        mixup_switch_prob: Probability of cutmix rather than mixup where both are given.
        mixup_mode: Draw the mixing once for a ``batch``, a ``pair`` or an ``elem`` (image).
        bce_loss: Binary cross-entropy of each class instead of cross-entropy (Wightman et al. 2021).
        bce_target_thresh: Targets above it become 1 in that loss, others 0; None keeps them.
        aug_repeats: How often an image is repeated in an epoch, in place of other images (Hoffer et al. 2020).
        drop_path: Probability of dropping the last residual branch, rising linearly towards it (Huang et al. 2016).
        adversarial: Train on adversarial images (``fgsm``, or ``pgd`` with 7 steps; Madry et al. 2018), or ``none``.
        adversarial_epsilon: How far the attack may move a value, of 255.
        image_column: Column of the images, if the data set has several.
        label_column: Column of the labels, if there are several; in segmentation, of the masks.
        masks: Meaning of the values of masks: ``binary``, all but 0 is foreground (instances, for example), or
            ``classes``, each value a class from 0 on and 255 void; None if there are only 0 and one other value.
        tile: Side of the tiles in which held-out and test images are seen (None: `data.tiles` says), 0 for whole ones.
        class_names: Names of the classes of masks in the order of their values, including the background.
        vocab_size: Size of the vocabulary, the most frequent words of the training texts; None for all of them.
        max_tokens: Number of tokens that a text is truncated to; None for whole texts.
        validation_fraction: Share of the training images held out to choose the best epoch.
        cuda_graph: Replay forward and backward pass as a CUDA graph. Like the next key it changes how the run is
            computed, not its outcome, and is left out of results.
        data_on_device: Keep training images on the GPU and cut batches there: ``true``, ``false``, or ``auto``, if they
            are in memory and leave enough room for the network.
    """

    name: str = "custom"
    source: str = ""
    task: TaskName = "classification"
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 11
    optimizer: Literal["sgd", "adam", "adamw", "lamb"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["multistep", "cosine", "one-cycle"] = "one-cycle"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.2
    label_smoothing: float = key_of("classification", "text", default=0.0)
    ema_decay: float = 0.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = key_of(*PICTURES, default=False)
    sync_batch_norm: bool = False
    image_size: tuple[int, int] | None = key_of(*PICTURES, default=None)
    progressive_sizes: tuple[tuple[float, int], ...] = key_of(*PICTURES, default=())
    ten_crop: tuple[int, int] | None = key_of("classification", default=None)
    padding: int = key_of("classification", default=4, off=0)
    flip: bool = key_of(*PICTURES, default=True, off=False)
    random_erasing: float = key_of("classification", default=0.0)
    train_crop_mode: Literal["rrc", "rkrc", "rkrr"] | None = photograph_key(None)
    scale: tuple[float, float] | None = photograph_key(None)
    ratio: tuple[float, float] | None = photograph_key(None)
    train_interpolation: Literal["random", "bilinear", "bicubic"] = photograph_key("random")
    color_jitter: float = photograph_key(0.0)
    auto_augment: str | None = photograph_key(None)
    test_size: tuple[int, int] | None = photograph_key(None)
    crop_pct: float | None = photograph_key(None)
    crop_mode: Literal["center", "squash", "border"] | None = key_of(*PICTURES, default=None, quiet=True)
    interpolation: Literal["bilinear", "bicubic"] | None = photograph_key(None)
    mixup: float = photograph_key(0.0)
    cutmix: float = photograph_key(0.0)
    mixup_prob: float = photograph_key(1.0)
    mixup_switch_prob: float = photograph_key(0.5)
    mixup_mode: Literal["batch", "pair", "elem"] = photograph_key("batch")
    bce_loss: bool = photograph_key(False)
    bce_target_thresh: float | None = photograph_key(None)
    aug_repeats: int = photograph_key(1)
    drop_path: float = photograph_key(0.0)
    adversarial: Literal["none", "fgsm", "pgd"] = key_of("classification", default="none")
    adversarial_epsilon: float = key_of("classification", default=8.0)
    image_column: str | None = None
    label_column: str | None = None
    masks: Literal["binary", "classes"] | None = key_of("segmentation", default=None)
    tile: int | None = key_of("segmentation", default=None)
    class_names: tuple[str, ...] | None = key_of("segmentation", default=None)
    vocab_size: int | None = key_of("text", default=None)
    max_tokens: int | None = key_of("text", default=None)
    validation_fraction: float = 0.1
    cuda_graph: bool = False
    data_on_device: Literal["auto", "true", "false"] = "auto"

    def __post_init__(self) -> None:
        """Refuse values that no run can have; keys of other tasks are turned off."""
        for each in dataclasses.fields(self):
            if each.name not in self.keys:
                if getattr(self, each.name) not in (each.default, each.metadata["off"]):
                    raise self._foreign(each.name)
                object.__setattr__(self, each.name, each.metadata["off"])
        if (self.epochs is None) == (self.steps is None):
            raise UserError(f"Recipe {self.name}: give epochs or steps, and not both.")
        for key, bounds in BOUNDS.items():
            value = getattr(self, key)
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None and not bounds.hold(each):
                    raise UserError(f"Recipe {self.name}: {key} takes numbers {bounds}, got {shortened(value)}.")
        self._check_crops()
        ends = [end for end, _ in self.progressive_sizes]
        if ends != sorted({*ends}) or any(not 0 < end < 1 or side < 1 for end, side in self.progressive_sizes):
            raise UserError(
                f"Recipe {self.name}: progressive_sizes are pairs such as [[0.4, 32], [0.7, 48]]: rising fractions of "
                f"the run in (0, 1), and sides in pixels."
            )

    def _check_crops(self) -> None:
        """Refuse keys for random crops where there are none, and padding where there are."""
        default = {each.name: each.default for each in dataclasses.fields(self)}
        if self.train_crop_mode is None:
            asked = [key for key in CROPS if getattr(self, key) != default[key]]
            if asked:
                raise UserError(
                    f"Recipe {self.name}: {asked[0]} applies to random crops only: give train_crop_mode too (rrc)."
                )
        elif self.padding not in (0, default["padding"]):
            raise UserError(f"Recipe {self.name}: padding is not for random crops (train_crop_mode); leave it out.")
        else:
            object.__setattr__(self, "padding", 0)
        for key in ("scale", "ratio"):
            least, most = getattr(self, key) or (0, 0)
            if least > most:
                raise UserError(f"Recipe {self.name}: {key} is the least and the largest, got {[least, most]}.")
        if self.bce_target_thresh is not None and not self.bce_loss:
            raise UserError(f"Recipe {self.name}: bce_target_thresh needs bce_loss: give that too.")
        if self.auto_augment is not None:
            check_auto_augment(self.auto_augment, f"Recipe {self.name}: auto_augment")

    def training_side(self, done: float) -> int | None:
        """Shorter side of training images after a fraction of the epochs; None for that of `image_size`."""
        return next((side for end, side in self.progressive_sizes if done < end), None)

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some values changed, checked like a file's."""
        return recipe_from_dict(_changed(dataclasses.asdict(self), changes), f"recipe {self.name}")

    @property
    def keys(self) -> list[str]:
        """Those that its task knows."""
        return [each.name for each in dataclasses.fields(self) if self.task in each.metadata.get("tasks", (self.task,))]

    def _foreign(self, key: str) -> UserError:
        return UserError(f"Recipe {self.name}: {key} is not for {self.task}; leave it out.")

    def to_dict(self) -> SeededRecipe:
        """The values that decide the outcome, in JSON's form; `recipe_from_dict` reads them back."""
        quiet = [each for each in dataclasses.fields(self) if each.metadata.get("quiet")]
        silent = {each.name for each in quiet if getattr(self, each.name) == each.default}
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in {*HOW_KEYS, *silent}}
        return cast(SeededRecipe, json.loads(json.dumps(values)))


def list_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str, **overrides: Any) -> Recipe:
    """Read a recipe by the name of one of ours or the path of a YAML file.

    Args:
        name_or_path: ``cifar10_fast`` or ``my/recipe.yaml``.
        **overrides: Values that replace the file's.

    Raises:
        UserError: No such recipe, unreadable YAML, unknown key (with close names), value of the wrong kind.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
        if not path.is_file():
            raise UserError(f"There is no recipe {name_or_path!r}; {did_you_mean(name_or_path, list_recipes())}")
    if not path.is_file():
        raise UserError(f"There is no recipe file {path}.")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Recipe file {path} cannot be read: {error}") from error
    values = read_yaml(text, path.name) or {}
    if not isinstance(values, dict):
        raise UserError(f"{path.name} must hold 'key: value' lines, got {type(values).__name__}.")
    length: dict[str, object] = {key: overrides[key] for key in ("epochs", "steps") if key in overrides}
    own = recipe_from_dict({"name": path.stem, **_changed(values, length)}, path.name)
    return own.replace(**overrides)


def _changed(values: Mapping[str, object], changes: Mapping[str, object]) -> Mapping[str, object]:
    """Values with some replaced; a new length of the run replaces the old one, whichever its unit."""
    if changes.get("epochs") is not None or changes.get("steps") is not None:
        values = {key: value for key, value in values.items() if key not in ("epochs", "steps")}
    return {**values, **changes}


def recipe_from_dict(values: Mapping[str, object], where: str) -> Recipe:
    """Build a recipe from plain values, checking keys and kinds; `where` names their origin in errors."""
    hints = typing.get_type_hints(Recipe)
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{where}: unknown key {shortened(key)}; {did_you_mean(str(key)[:60], hints)}")
        checked[key] = as_kind(value, hints[key], f"{where}: {key}")
    recipe = Recipe(**checked)
    for key, value in checked.items():
        # it asked for something, the default, that another task does
        if getattr(recipe, key) != value and key not in recipe.keys:
            raise recipe._foreign(key)
    return recipe
