"""Model cards and evaluation results as they go to the Hub, rendered from the manifest by a jinja2 template."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .._utils.files import markdown_table
from ..checkpoints.manifest import (
    FIGURES,
    SMP_CONFIG,
    Manifest,
    find_entry,
    monitor_of,
    over_seeds,
    read_data_sets,
    training_length,
)
from ..checkpoints.records import Entry
from ..checkpoints.tables import cells_over_seeds, noise_table, p_value_table
from ..compat.huggingface_hub import EvaluationResult, evaluation_entries
from ..models._builder import NORMALIZED
from ..models.resnet_cifar import CIFAR_ACTIVATIONS
from ..training.recipe import list_recipes, load_recipe

__all__ = ["card_files", "pictures", "render_card", "render_eval_results", "training_command"]

TEMPLATE = Path(__file__).parent / "model_card.md.jinja"


@dataclass(frozen=True)
class HubTask:
    """A task as the Hub knows it.

    Attributes:
        hub_id: Its name there.
        metrics: Key in results -> the metric's id and name, the one that the task is judged by first.
    """

    hub_id: str
    metrics: Mapping[str, tuple[str, str]]


# By the figure that a task is judged by.
HUB_TASKS = {
    "top1": HubTask("image-classification", {"top1": ("accuracy", "Top-1 accuracy (%)")}),
    "iou": HubTask(
        "image-segmentation",
        {"iou": ("iou", "Intersection over union (%)"), "dice": ("dice", "Dice coefficient (%)")},
    ),
}


def card_files(manifest: Manifest) -> dict[str, str]:
    """The content of hub_cards/: file name -> text, a card and its evaluation results for each checkpoint."""
    files = {}
    for name in manifest:
        files[f"{name}.md"] = render_card(name, manifest)
        results = render_eval_results(name, manifest)
        if results is not None:
            files[f"{name}.eval_results.yaml"] = results
    return files


def pictures(manifest: Manifest) -> dict[str, str]:
    """What else belongs in hub_cards/: file name -> sha256 of the pictures that cards show."""
    shown = (entry["picture"] for entry in manifest.values() if "picture" in entry)
    return {picture["file"]: picture["sha256"] for picture in shown}


def render_card(name: str, manifest: Manifest, repo: str | None = None) -> str:
    """The model card of ``arch.tag``: README.md of its Hub repository.

    Args:
        name: ``arch.tag``.
        manifest: All checkpoints, as the card shows those trained alike beside it.
        repo: ``ORG/NAME`` it goes to; where it was published to if None.
    """
    name, entry = find_entry(name, manifest)
    data = read_data_sets()[entry["data"]["name"]]
    metadata = _metadata(name, manifest)
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=name,
        entry=entry,
        task=metadata.pipeline_tag,
        library=metadata.library_name,
        repo=repo or entry.get("hub", {}).get("repo"),
        data_set=data,
        start=metadata.base_model or _embedded_start(entry, manifest),
        activations=sorted(set(entry["activations"].values())),
        alike=len(_trained_alike(name, manifest)) > 1,
        results=_results_table(name, manifest),
        robustness=_robustness_table(name, manifest),
        noise=noise_table(entry["adaptation"]["noise"]) if "adaptation" in entry else None,
        p_values=p_value_table(name, found) if (found := entry.get("corrupted", {}).get("comparisons")) else None,
        length=training_length(entry["recipe"]),
        recipe={key: value for key, value in entry["recipe"].items() if key not in ("name", "source")},
        command=training_command(name, entry, data["hub_id"] or "FOLDER"),
    )
    return str(card).rstrip() + "\n"


def _metadata(name: str, manifest: Manifest) -> ModelCardData:
    """The card's head, by which the Hub files and finds the model."""
    entry = manifest[name]
    data = read_data_sets()[entry["data"]["name"]]
    task, scores = _scores(entry)
    library = "segmentation-models-pytorch" if SMP_CONFIG in entry else "timm"
    activations = sorted({_activation_name(each) for each in entry["activations"].values()})
    return ModelCardData(
        library_name=library,
        pipeline_tag=task.hub_id,
        license=entry["pretrained_cfg"]["license"],
        datasets=[data["hub_id"]] if data["hub_id"] else None,
        tags=[library, "timm-layeract", task.hub_id, *activations],
        base_model=_base_model(entry, manifest),
        metrics=[metric for metric, _, _ in scores],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task.hub_id,
                dataset_type=data["hub_id"] or entry["data"]["name"],
                dataset_name=entry["data"]["name"],
                dataset_split=data["test_split"],
                metric_type=metric,
                metric_name=called,
                metric_value=value,
            )
            for metric, called, value in scores
        ],
    )


def render_eval_results(name: str, manifest: Manifest) -> str | None:
    """The Hub's ``.eval_results`` file of a checkpoint, as YAML; None where the data set is not on the Hub."""
    name, entry = find_entry(name, manifest)
    data = read_data_sets()[entry["data"]["name"]]
    if data["hub_id"] is None:  # an entry must name a data set there
        return None
    task, scores = _scores(entry)
    results = [
        EvaluationResult(
            dataset_id=data["hub_id"],
            task_id=task.hub_id,
            value=value,
            date=entry["date"],
            notes=f"{called}, {data['test_split']} split, {entry['data']['test_images']} images. {data['description']}",
        )
        for _, called, value in scores
    ]
    return yaml.safe_dump(evaluation_entries(results), sort_keys=False, allow_unicode=True, width=120)


def training_command(name: str, entry: Entry, data: str) -> str:
    """The command line that repeats a checkpoint's training, with every value that differs from its recipe's file."""
    start, adaptation, recipe = entry["started_from"], entry.get("adaptation"), entry["recipe"]
    if adaptation:
        words: list[object] = ["adapt", start, "--to", adaptation["to"]]
        words += ["--unlabelled"] if adaptation["unlabelled"] else []
        words += [] if adaptation["distill"] else ["--no-distill"]
        words += ["--statistics-batches", adaptation["statistics_batches"]]
    else:
        words = ["finetune", "-m", start] if start else ["train", "-m", entry["model"]]
    ours = recipe["name"] in list_recipes()
    words += ["-d", data, "-r", recipe["name"] if ours else f"{recipe['name']}.yaml", "--seed", recipe["seed"]]
    if ours:
        shipped = load_recipe(recipe["name"]).to_dict()
        for key, value in recipe.items():
            # None is a length in the other unit, which the unit that is given unsets
            if key not in ("source", "seed") and value not in (None, shipped.get(key)):
                words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(["layeract", *map(str, words), "-o", f"runs/{name}"])


def _scores(entry: Entry) -> tuple[HubTask, list[tuple[str, str, float]]]:
    """The task, and its test figures: the metric's id and name, and the value."""
    test = entry["test"]
    task = HUB_TASKS[monitor_of(test)]
    return task, [(*task.metrics[key], round(test[key], 2)) for key in task.metrics if key in test]


def _activation_name(described: str) -> str:
    """``LASiLU(alpha=1e-05)`` -> ``lasilu``."""
    return described.split("(")[0].lower()


def _trained_alike(name: str, manifest: Manifest) -> list[str]:
    """This checkpoint, then those that differ from it in nothing but the activation: same family, recipe and data."""
    entry = manifest[name]

    def training(trained: Entry) -> tuple[object, ...]:
        return _family(trained["model"]), trained["recipe"], trained["data"], trained["started_from"]

    return [name, *(other for other in manifest if other != name and training(manifest[other]) == training(entry))]


def _family(architecture: str) -> str:
    """``resnet20_lasilu`` -> ``resnet20``, ``smp:unet_lasilu/resnet34_lasilu`` -> ``smp:unet/resnet34``."""
    endings = [end for end in (*CIFAR_ACTIVATIONS, *NORMALIZED) if end]
    parts = architecture.split("/")
    return "/".join(next((part.removesuffix(end) for end in endings if part.endswith(end)), part) for part in parts)


def _results_table(name: str, manifest: Manifest) -> str:
    """Figures of the checkpoint, those trained alike and the one it started from, as a Markdown table."""
    start = _embedded_start(manifest[name], manifest)
    entries = {each: manifest[each] for each in [*_trained_alike(name, manifest), *([start] if start else [])]}
    shown = [key for key in FIGURES if key in manifest[name]["test"]]
    called = [f" {FIGURES[key]}" for key in shown] if len(shown) > 1 else [""]
    seeded = any(over_seeds(entry) for entry in entries.values())
    head = ["network", "activation", *(f"test{each}" for each in called), *(f"held-out{each}" for each in called)]
    rows = []
    for each, entry in entries.items():
        figures = [(entry[part] or {}).get(key) for part in ("test", "validation") for key in shown]
        row = [f"**{each}**" if each == name else each, ", ".join(sorted(set(entry["activations"].values())))]
        row += ["-" if value is None else f"{value:.2f}" for value in figures]
        rows.append([*row, over_seeds(entry) or ""] if seeded else row)
    return markdown_table([*head, f"test{called[0]}, mean ± deviation (seeds)"] if seeded else head, rows)


def _robustness_table(name: str, manifest: Manifest) -> str | None:
    """Accuracy under corruptions, beside that of networks trained alike and measured alike; None where not measured."""
    corrupted = {each: manifest[each].get("corrupted") for each in _trained_alike(name, manifest)}
    own = corrupted[name]
    if not own:
        return None
    alike = {each: found for each, found in corrupted.items() if found and found["report"] == own["report"]}
    rows = [
        [f"**{each}**" if each == name else each, *cells_over_seeds(found["mean"], found["std"])]
        for each, found in alike.items()
    ]
    return markdown_table(["network", *own["mean"]], rows)


def _embedded_start(entry: Entry, manifest: Manifest) -> str | None:
    """Name of the checkpoint that a network started from; None if it is not in the manifest."""
    start = entry.get("started_from")
    return start if start in manifest else None


def _base_model(entry: Entry, manifest: Manifest) -> str | None:
    """Hub id of the weights that a network was fine-tuned from; None if there is none."""
    start: str | None = entry.get("started_from")
    if not start:
        return None
    if start.startswith("hf-hub:"):
        return start.removeprefix("hf-hub:").split("@")[0]
    for name, other in manifest.items():
        if start in (name, other["model"]) and "hub" in other:
            return other["hub"]["repo"]
    cfg = timm.get_pretrained_cfg(start, allow_unregistered=True)
    return cfg.hf_hub_id if cfg and cfg.hf_hub_id else None
