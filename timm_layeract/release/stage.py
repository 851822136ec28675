"""A checkpoint of the manifest laid out as a Hub repository, after the checks that it is what it should be."""

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from .._utils.files import write_json
from .._utils.names import CLASS_KEY, NAME_KEY
from .._utils.writing import copy_whole, write_whole
from ..checkpoints.fingerprint import check_fingerprint
from ..checkpoints.load import check_weights
from ..checkpoints.manifest import CARDS_DIR, HUB_FILE, SMP_CONFIG, Manifest, pretrained_cfgs
from ..checkpoints.records import Entry
from ..checkpoints.save import FINGERPRINT_KEY, WEIGHTS_HASH_KEY, file_sha256, save_config
from ..errors import UserError
from .cards import render_card, render_eval_results
from .shipped import golden_file

__all__ = ["GOLDEN", "check_golden", "load_published", "stage", "staged_files"]

GOLDEN = "golden.safetensors"
# Logits on other hardware and other versions of torch differ in the last digits; a wrong network differs in the first.
TOLERANCE = 1e-4


def stage(name: str, manifest: Manifest, repo: str, folder: Path, directory: Path, cards: Path = CARDS_DIR) -> None:
    """Check a checkpoint and lay out its repository.

    Args:
        name: ``arch.tag``.
        manifest: All checkpoints.
        repo: ``ORG/NAME``, for the card.
        folder: Made and filled: model.safetensors, config.json, README.md with its picture, evaluation results, golden
            tensors.
        directory: Where the weights lie.
        cards: Where pictures lie.

    Raises:
        UserError: Damaged weights, a hash (of weights or picture) other than the manifest's, NaN or infinity,
            parameters that do not fit, other activations, other logits than the golden ones.
    """
    entry = manifest[name]
    weights, golden = directory / entry["file"], golden_file(name, directory)
    model = _checked_model(name, entry, weights, directory)
    if not golden.is_file():
        raise UserError(f"There are no golden tensors {golden.name} beside the weights; embed the checkpoint again.")
    check_golden(model, golden, weights.name)
    picture = _checked_picture(entry, cards)
    folder.mkdir()
    copy_whole(weights, folder / HUB_FILE)
    copy_whole(golden, folder / GOLDEN)
    if SMP_CONFIG in entry:
        _save_smp_config(name, entry, folder)
    else:
        save_config(model, folder / HUB_FILE, tuple(entry["pretrained_cfg"].get("label_names", ())))
    write_whole(folder / "README.md", render_card(name, manifest, repo))
    if picture is not None:
        copy_whole(picture, folder / picture.name)
    results = render_eval_results(name, manifest)
    if results is not None:
        write_whole(folder / ".eval_results" / f"{name}.yaml", results)


def staged_files(folder: Path) -> list[str]:
    """Paths in the repository, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _checked_model(name: str, entry: Entry, weights: Path, directory: Path) -> nn.Module:
    """The network with its weights, both as the manifest says."""
    check_weights(weights, entry["sha256"])
    broken = [key for key, tensor in load_file(weights).items() if not bool(torch.isfinite(tensor.float()).all())]
    if broken:
        raise UserError(f"{weights.name} holds NaN or infinity, in {', '.join(broken[:5])}; train it again.")
    try:
        model = _load(name, entry, weights, directory)
    except RuntimeError as error:
        raise UserError(f"{weights.name} does not fit {entry['model']}: {' '.join(str(error).split())}") from error
    check_fingerprint(entry["activations"], model, weights.name)
    return model


def _load(name: str, entry: Entry, weights: Path, directory: Path) -> nn.Module:
    if SMP_CONFIG in entry:
        from ..smp.by_name import load_entry

        model: nn.Module = load_entry(entry, weights)
        return model
    architecture, tag = name.split(".")
    cfg = {**pretrained_cfgs(architecture, {name: entry}, directory)[name], "architecture": architecture, "tag": tag}
    return timm.create_model(architecture, pretrained=True, pretrained_cfg=cfg)


def _save_smp_config(name: str, entry: Entry, folder: Path) -> None:
    """config.json as a network of SMP's writes it, with its name."""
    records = {FINGERPRINT_KEY: entry["activations"], WEIGHTS_HASH_KEY: entry["sha256"], NAME_KEY: name}
    write_json(folder / "config.json", dict(sorted({**entry[SMP_CONFIG], **records}.items())))


def load_published(entry: Entry, repo: str, revision: str, cache: Path) -> nn.Module:
    """A network loaded from the Hub as a user would load it, through a cache."""
    if SMP_CONFIG in entry:
        import segmentation_models_pytorch as smp

        variant = getattr(smp, entry[SMP_CONFIG][CLASS_KEY])
        model: nn.Module = variant.from_pretrained(repo, revision=revision, cache_dir=cache)
        return model
    return timm.create_model(f"hf-hub:{repo}@{revision}", pretrained=True, cache_dir=cache)


def _checked_picture(entry: Entry, cards: Path) -> Path | None:
    """The picture of the card, if it has one."""
    if "picture" not in entry:
        return None
    path = cards / entry["picture"]["file"]
    if not path.is_file() or file_sha256(path) != entry["picture"]["sha256"]:
        raise UserError(f"{path} is not the picture that was embedded; get it again (git checkout), or embed it again.")
    return path


def check_golden(model: nn.Module, golden: Path, source: str) -> None:
    """Refuse (`UserError`) a network that does not give the golden outputs."""
    tensors = load_file(golden)
    with torch.inference_mode():
        output = model.eval()(tensors["input"])
    wanted = tensors["output"]
    if output.shape != wanted.shape:
        raise UserError(f"{source} gives outputs of shape {tuple(output.shape)}, recorded {tuple(wanted.shape)}.")
    difference = float((output - wanted).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise UserError(
            f"{source} gives other logits than were recorded when it was trained (up to {difference:g} apart): "
            f"the code of the network has changed, or the weights have."
        )
