"""Model cards and evaluation results as they go to the Hub, rendered from the manifest by a jinja2 template.

Imports huggingface_hub, timm, yaml, `manifest`, `models`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData
from huggingface_hub import eval_result_entries_to_yaml as entries_to_yaml

from ..manifest import Manifest, find_entry, over_seeds, read_data_sets, training_length
from ..models._builder import NORMALIZED
from ..models.resnet_cifar import ACTIVATIONS

__all__ = ["card_files", "render_card", "render_eval_results"]

TEMPLATE = Path(__file__).parent / "model_card.md.jinja"
TASK = "image-classification"
METRIC = "Top-1 accuracy (%)"


def card_files(manifest: Manifest) -> dict[str, str]:
    """The content of hub_cards/: file name -> text, a card and its evaluation results for each checkpoint."""
    files = {}
    for name in manifest:
        files[f"{name}.md"] = render_card(name, manifest)
        files[f"{name}.eval_results.yaml"] = render_eval_results(name, manifest)
    return files


def render_card(name: str, manifest: Manifest, repo: str | None = None) -> str:
    """The model card of ``arch.tag``: README.md of its Hub repository.

    Args:
        name: ``arch.tag``.
        manifest: All checkpoints, as the card shows those trained alike beside it.
        repo: ``ORG/NAME`` it goes to; where it was published to if None.
    """
    name, entry = find_entry(name, manifest)
    data = read_data_sets()[entry["data"]["name"]]
    base = _base_model(entry, manifest)
    score = _percent(entry["test"]["top1"])
    metadata = ModelCardData(
        library_name="timm",
        pipeline_tag=TASK,
        license=entry["pretrained_cfg"]["license"],
        datasets=[data["hub_id"]],
        tags=[
            "timm",
            "timm-layeract",
            TASK,
            *sorted({_activation_name(each) for each in entry["activations"].values()}),
        ],
        base_model=base,
        metrics=["accuracy"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=TASK,
                dataset_type=data["hub_id"],
                dataset_name=entry["data"]["name"],
                dataset_split="test",
                metric_type="accuracy",
                metric_name=METRIC,
                metric_value=score,
            )
        ],
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=name,
        entry=entry,
        repo=repo or entry.get("hub", {}).get("repo"),
        data_set=data,
        base=base,
        activations=sorted(set(entry["activations"].values())),
        rows=[_row(other, manifest[other]) for other in _trained_alike(name, manifest)],
        length=training_length(entry["recipe"]),
        recipe={key: value for key, value in entry["recipe"].items() if key not in ("name", "source")},
    )
    return str(card).rstrip() + "\n"


def render_eval_results(name: str, manifest: Manifest) -> str:
    """The Hub's ``.eval_results`` file of a checkpoint, as YAML."""
    name, entry = find_entry(name, manifest)
    data = read_data_sets()[entry["data"]["name"]]
    result = EvalResultEntry(
        dataset_id=data["hub_id"],
        task_id=TASK,
        value=_percent(entry["test"]["top1"]),
        date=entry["date"],
        notes=f"{METRIC}, test split, {entry['data']['test_images']} images. {data['description']}",
    )
    return yaml.safe_dump(entries_to_yaml([result]), sort_keys=False, allow_unicode=True, width=120)


def _percent(value: float) -> float:
    return round(value, 2)


def _activation_name(described: str) -> str:
    """``LASiLU(alpha=1e-05)`` -> ``lasilu``."""
    return described.split("(")[0].lower()


def _trained_alike(name: str, manifest: Manifest) -> list[str]:
    """This checkpoint, then those that differ from it in nothing but the activation: same family, recipe and data."""
    entry = manifest[name]

    def training(trained: Mapping[str, Any]) -> tuple[Any, ...]:
        return _family(trained["model"]), trained["recipe"], trained["data"], trained["started_from"]

    return [name, *(other for other in manifest if other != name and training(manifest[other]) == training(entry))]


def _family(architecture: str) -> str:
    """``resnet20_lasilu`` -> ``resnet20``."""
    return next(
        (architecture.removesuffix(end) for end in (*ACTIVATIONS, *NORMALIZED) if end and architecture.endswith(end)),
        architecture,
    )


def _row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the table of results shows of one network."""
    activations = sorted(set(entry["activations"].values()))
    row = {"name": name, "activation": ", ".join(activations), "test": entry["test"]["top1"]}
    row["validation"] = entry["validation"]["top1"]
    if (seeds := over_seeds(entry)) is not None:
        row["seeds"] = seeds
    return row


def _base_model(entry: Mapping[str, Any], manifest: Manifest) -> str | None:
    """Hub id of the weights that a network was fine-tuned from, None where it has none."""
    start = entry.get("started_from")
    if not start:
        return None
    if start.startswith("hf-hub:"):
        return start.removeprefix("hf-hub:").split("@")[0]
    for name, other in manifest.items():
        if start in (name, other["model"]) and "hub" in other:
            return other["hub"]["repo"]
    cfg = timm.get_pretrained_cfg(start, allow_unregistered=True)
    return cfg.hf_hub_id if cfg and cfg.hf_hub_id else None
