"""`layeract evaluate`, `robustness`, `corrupt`, `significance`, `shifts`. Thin: each is one call into the package."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UserError
from ..robustness.corruptions.constants import QUICK_CATEGORY, QUICK_IMAGES
from ..training.bounds import SEEDS
from .options import (
    NETWORK_NAMES,
    Data,
    DataName,
    ImageColumn,
    LabelColumn,
    output_file,
    output_folder,
    parse_names,
    parse_numbers,
)

Models = Annotated[
    list[str],
    typer.Argument(help=f"Trained networks, each as {NETWORK_NAMES}. {{seed}} stands for each of --seeds."),
]
Seeds = Annotated[str | None, typer.Option(help="What {seed} in a model stands for, such as 11,22,33.")]
ReportFolder = Annotated[Path, output_folder("Folder for tables and plots; a stopped run goes on.")]
Corruptions = Annotated[
    str | None, typer.Option(help="Only these, as names or categories: noise,fog. 'simple' has three more.")
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute under bfloat16 autocast: faster, slightly other numbers.")]
_seed = partial(typer.Option, min=SEEDS.least, max=SEEDS.most)
Limit = Annotated[int | None, typer.Option(min=1, help="Measure the first images only.")]


def evaluate(
    model: Annotated[str, typer.Option("--model", "-m", help=f"Trained network: {NETWORK_NAMES}.")],
    data: Data,
    output: Annotated[Path | None, output_file("JSON file for the result.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Part of the data; test if left out, else validation, else the only one.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, max=2**16, help="Side of the images, instead of the model's.")
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(min=0.01, max=2, help="Share of the resized image that is kept, instead of the model's."),
    ] = None,
    crop_mode: Annotated[
        Literal["center", "squash", "border"] | None, typer.Option(help="How to crop, instead of the model's way.")
    ] = None,
    interpolation: Annotated[
        Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] | None,
        typer.Option(help="How to resize, instead of the model's way."),
    ] = None,
    upright: Annotated[
        bool, typer.Option("--upright/--as-stored", help="Turn photographs by their EXIF orientation; timm does not.")
    ] = True,
    valid_labels: Annotated[
        Path | None,
        typer.Option(help="File with the model's output for each class of the data, one a line (ImageNet-A, -R)."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=10**5, help="Images at once.")] = 256,
    bf16: Bf16 = False,
    workers: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Processes that decode images; one a core.")
    ] = None,
    image: ImageColumn = None,
    label: LabelColumn = None,
    data_name: DataName = None,
) -> None:
    """Measure a classifier's top-1 and top-5 accuracy, as timm's validate.py does.

    Images are resized and cropped as the model's config says. Runs under `accelerate launch` on any number of
    processes, with the same figures.

    Example: `layeract evaluate -m resnet50_lasilu.tin200 -d zh-plus/tiny-imagenet -o result.json`
    """
    from ..data.columns import Columns
    from ..evaluation.evaluate import evaluate, read_indices

    evaluate(
        model,
        data,
        output,
        split=split,
        image_size=image_size,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation=interpolation,
        upright=upright,
        valid_labels=read_indices(valid_labels) if valid_labels else (),
        batch_size=batch_size,
        bf16=bf16,
        workers=workers,
        columns=Columns(image, label),
        data_name=data_name,
    )


def robustness(
    models: Models,
    data: Data,
    output: ReportFolder,
    released: Annotated[
        str | None,
        typer.Option(help="Folder of CIFAR-10-C, CIFAR-100-C (.npy), ImageNet-C or Tiny-ImageNet-C, to use as it is."),
    ] = None,
    seeds: Seeds = None,
    corruptions: Corruptions = None,
    baseline: Annotated[
        str | None, typer.Option(help="Model that the mean corruption error is relative to, or alexnet (ImageNet-C).")
    ] = None,
    limit: Limit = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Only {QUICK_CATEGORY}, on the first {QUICK_IMAGES:,} images.")
    ] = False,
    image: ImageColumn = None,
    label: LabelColumn = None,
    data_name: DataName = None,
    corruption_seed: Annotated[int, _seed(help="Seed of regenerated corruptions.")] = 0,
    bf16: Bf16 = False,
) -> None:
    """Measure accuracy under 19 corruptions, 5 severities each.

    Corruptions are made from the test images (CIFAR-10-C's strengths up to 32 pixels, Tiny-ImageNet-C's up to 64,
    ImageNet-C's above) unless --released has them. Writes JSON, CSV, Markdown and plots.

    Example: `layeract robustness resnet20 resnet20_lasilu.cifar10_quick -d uoft-cs/cifar10 -o reports/first`
    """
    from ..data.columns import Columns
    from ..robustness.robustness import robustness

    if quick and (corruptions or limit or released):
        raise UserError(
            "--quick already chooses the corruptions and the number of images; leave out the options that do."
        )
    if quick:
        corruptions, limit = QUICK_CATEGORY, QUICK_IMAGES
    robustness(
        models,
        data,
        output,
        released=released,
        seeds=parse_numbers("--seeds", seeds),
        corruptions=parse_names("--corruptions", corruptions),
        baseline=baseline,
        limit=limit,
        columns=Columns(image, label),
        data_name=data_name,
        corruption_seed=corruption_seed,
        bf16=bf16,
    )


def corrupt(
    data: Data,
    output: Annotated[Path, output_folder("New folder for the sets.")],
    size: Annotated[int, typer.Option(min=8, max=2**12, help="Side that the images are resized to.")] = 32,
    corruptions: Corruptions = None,
    seed: Annotated[int, _seed(help="Another seed, other sets.")] = 0,
    image: ImageColumn = None,
    label: LabelColumn = None,
) -> None:
    """Write corrupted test images in CIFAR-10-C's layout, for other programs.

    The same sets that `layeract robustness` makes, with their hashes in sets.json.

    Example: `layeract corrupt -d uoft-cs/cifar10 -o data/cifar10-c`
    """
    from ..data.columns import Columns
    from ..robustness.corruptions.constants import CORRUPTIONS, expand_names
    from ..robustness.corruptions.write import write_sets

    names = expand_names(parse_names("--corruptions", corruptions)) or CORRUPTIONS
    write_sets(data, output, (size, size), names, seed, Columns(image, label))


def significance(
    reports: Annotated[list[Path], typer.Argument(help="Folders that `layeract robustness` wrote, of several seeds.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model that is compared with all others, as given.")],
    output: ReportFolder,
) -> None:
    """Test whether a model differs from the others over seeds, as the paper's Tables 20 to 23.

    Shapiro-Wilk decides between the paired t-test and Wilcoxon's signed-rank test; p-values are corrected by Holm's
    method. Writes JSON and Markdown.

    Example: `layeract significance reports/seeds -m 'runs/lasilu_{seed}' -o reports/tests`
    """
    from ..robustness.significance import markdown, significance

    typer.echo(markdown(significance(reports, model, output)))


def shifts(
    models: Models,
    data: Data,
    output: ReportFolder,
    kinds: Annotated[str | None, typer.Option(help="Only these: fgsm,pgd,rotation,translation.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=10**4, help="Steps of PGD.")] = 10,
    seeds: Seeds = None,
    limit: Limit = None,
    image: ImageColumn = None,
    label: LabelColumn = None,
    data_name: DataName = None,
) -> None:
    """Measure accuracy under attacks (FGSM, PGD in the L-infinity norm), rotations and translations.

    Writes JSON, Markdown and a plot.

    Example: `layeract shifts resnet20 resnet20_lasilu.cifar10_quick -d uoft-cs/cifar10 -o reports/shifts`
    """
    from ..data.columns import Columns
    from ..robustness.shifts import shifts

    shifts(
        models,
        data,
        output,
        kinds=parse_names("--kinds", kinds),
        seeds=parse_numbers("--seeds", seeds),
        steps=steps,
        limit=limit,
        columns=Columns(image, label),
        data_name=data_name,
    )
