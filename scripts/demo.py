"""The main job in two minutes: a pretrained LA-SiLU network, fine-tuned, saved in the Hub's layout and loaded again.

Fine-tunes resnet20_lasilu (trained on CIFAR-10) on scikit-learn's handwritten digits, 1,797 real 8x8 scans that the
library ships, with accelerate; a third of them is held out. Needs no network and no GPU.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import timm_layeract  # noqa: F401  (registers the models)
from timm_layeract.data.augment import normalize
from timm_layeract.data.sources import ImageSplit
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.run import train_on

MODEL = "resnet20_lasilu"


def digits(side: int = 32) -> tuple[ImageSplit, ImageSplit]:
    """scikit-learn's digits as colour images of side x side pixels: two thirds to train on, one third held out."""
    data = load_digits()
    grey = torch.from_numpy(data.images).float()[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(grey, size=(side, side), mode="bilinear").round().to(torch.uint8)
    images, labels = images.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(data.target).long()
    train, test = train_test_split(range(len(labels)), test_size=1 / 3, random_state=0, stratify=data.target)
    everything = ImageSplit(images, labels, tuple(str(name) for name in data.target_names))
    return everything.take(torch.tensor(train)), everything.take(torch.tensor(test))


def logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Outputs in evaluation mode for uint8 images."""
    config = timm.data.resolve_model_data_config(model)
    with torch.inference_mode():
        return model.eval()(normalize(images, config["mean"], config["std"]))


def accuracy(model: torch.nn.Module, split: ImageSplit) -> float:
    """Top-1 accuracy in percent."""
    return 100 * float((logits(model, split.images).argmax(1) == split.labels).double().mean())


def main(
    output: Annotated[Path | None, typer.Option(help="Folder of the run; a temporary one if left out.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training digits.")] = 10,
) -> None:
    """Load, fine-tune, save, reload."""
    train, test = digits()
    recipe = load_recipe("finetune", epochs=epochs, flip=False, padding=2)
    set_seed(recipe.seed)
    model = timm.create_model(MODEL, pretrained=True, num_classes=len(train.classes))
    model.reset_classifier(len(train.classes))  # CIFAR-10 has ten classes too, but they are not the ten digits
    typer.echo(f"{MODEL}: {sum(p.numel() for p in model.parameters()):,} parameters, trained on CIFAR-10")
    typer.echo(f"before: {accuracy(model, test):.2f} % of {len(test)} held-out digits")

    with tempfile.TemporaryDirectory() as scratch:
        run = output or Path(scratch) / "digits"
        train_on(
            model,
            recipe,
            train,
            test,
            run,
            data_name="scikit-learn digits",
            started_from=MODEL,
            execution=Execution(report=typer.echo),
        )
        typer.echo(f"after:  {accuracy(model, test):.2f} %")

        reloaded = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)
        difference = float((logits(model, test.images) - logits(reloaded, test.images)).abs().max())
        typer.echo(f"saved in the Hub's layout and loaded again: logits differ by {difference:g}")
        if difference > 0:
            raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
