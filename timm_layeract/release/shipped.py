"""Weights that ship with the package: put among them, with an input and the logits that they give for it."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .._utils.records import check_record
from .._utils.timm_types import config_of
from .._utils.writing import write_whole
from ..checkpoints.fingerprint import activation_fingerprint
from ..checkpoints.manifest import SMP_CONFIG, WEIGHTS_DIR, read_manifest, write_manifest
from ..checkpoints.records import Entry
from ..checkpoints.save import file_sha256, is_smp, rebuild, save_weights
from ..compat import timm as timm_compat
from ..errors import UserError

__all__ = ["GOLDEN_SIDE", "embed_checkpoint", "embedded_name", "golden_file", "golden_tensors"]

KEPT_CFG = (
    "notes",
    "input_size",
    "interpolation",
    "crop_pct",
    "mean",
    "std",
    "pool_size",
    "first_conv",
    "classifier",
    "license",
    "notes",
)
# What a manifest's entry comes by after embedding.
LATER = ("corrupted", "hub")
# Above this, embedded weights are kept in float16.
LARGE_FILE = 16 * 2**20
# Longest side of golden inputs: networks of ours that are made for larger images take any size.
GOLDEN_SIDE = 64


def embed_checkpoint(model: nn.Module, tag: str, trained: Mapping[str, object], directory: Path = WEIGHTS_DIR) -> str:
    """Put a trained model's weights among those that ship with the package, and its entry into the manifest.

    Weights of more than 16 MiB are kept in float16. What was found out later of the same weights stays: their figures
    under corruptions, where they were published.

    Args:
        model: timm model of a registered architecture, or one of SMP's that `smp.networks` made or loaded.
        tag: Names the weights: ``cifar10`` in ``resnet20_lasilu.cifar10``.
        trained: What the training knows: results, data, recipe, versions, and ``label_names``.
        directory: Weights folder.

    Returns:
        ``arch.tag``.
    """
    of_smp: dict[str, object] = {SMP_CONFIG: model.embedded_config()} if is_smp(model) else {}  # type: ignore[operator]
    built = model if of_smp else rebuild(model)
    if "alpha" in timm_compat.get_model_args(built):
        raise UserError("Weights ship for an architecture's own alpha alone; publish these by save_pretrained.")
    cfg = config_of(built)
    held: Mapping[str, object] = cfg
    name = embedded_name(built, tag)
    path = directory / f"{name}.safetensors"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    save_weights(model, path, half=4 * parameters > LARGE_FILE)
    stored = load_file(path)
    published = deepcopy(built).cpu().float()
    published.load_state_dict(stored)
    write_whole(golden_file(name, directory), save(golden_tensors(published, cfg["input_size"])))
    described = {
        "file": path.name,
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "parameters": parameters,
        "dtype": str(stored[next(name for name, _ in model.named_parameters())].dtype).removeprefix("torch."),
        "activations": activation_fingerprint(model),
        "pretrained_cfg": {
            **{key: held[key] for key in KEPT_CFG if key in held},
            "num_classes": model.num_classes,
            "label_names": trained["label_names"],
        },
        **of_smp,
    }
    manifest = read_manifest(directory)
    known: Mapping[str, object] = manifest.get(name, {})
    rest = {key: value for key, value in trained.items() if key != "label_names"}
    later = {key: known[key] for key in LATER if key in known and known["sha256"] == described["sha256"]}
    written = check_record(Entry, {**described, **rest, **later}, name)
    write_manifest({**manifest, name: written}, directory)
    return name


def embedded_name(model: nn.Module, tag: str) -> str:
    """``arch.tag``: what weights of a network are called; ``architecture-encoder.tag`` of SMP's."""
    return f"{model.embedded_name() if is_smp(model) else model.pretrained_cfg['architecture']}.{tag}"  # type: ignore[operator,index]


def golden_file(name: str, directory: Path = WEIGHTS_DIR) -> Path:
    """Where the golden tensors of ``arch.tag`` lie."""
    return directory / f"{name}.golden.safetensors"


def golden_tensors(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, Tensor]:
    """A fixed input and what the model makes of it: what later versions of the code must still compute.

    Args:
        model: Network in float32 on the CPU.
        input_size: (C, H, W) that it is made for.

    Returns:
        ``input`` ``(2, C, H, W)``, standard normal, no side longer than `GOLDEN_SIDE`, and ``output``, the logits in
        evaluation mode: ``(2, K)``, or of segmentation ``(2, K, H, W)``.
    """
    channels, *sides = input_size
    images = torch.randn(
        2, channels, *(min(side, GOLDEN_SIDE) for side in sides), generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        output = model.eval()(images)
    return {"input": images, "output": output.clone()}
