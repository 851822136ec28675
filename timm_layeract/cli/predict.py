"""`layeract predict`. Thin: one call into `prediction`, imported when it runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import NETWORK_NAMES, output_folder


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files, folders of which all images are taken, and - for one from standard input."),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help=f"Trained network: {NETWORK_NAMES}.")],
    output: Annotated[
        Path | None,
        output_folder(
            "Folder for NAME.mask.png and NAME.overlay.png (masks if left out), or for classes.csv and classes.png, a "
            "contact sheet (none if left out)."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Classes: how many of each image, the likeliest; 5.")
    ] = None,
    form: Annotated[
        Literal["table", "csv", "json"] | None, typer.Option("--format", help="Classes: how they are printed; table.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=10**5, help="Classes: images at once; 64.")] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**16,
            help="Masks: side, in pixels, of tiles that larger images are cut into; with LayerAct that of the windows "
            "it was trained on, else 512.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**16,
            help="Masks: pixels that neighbouring tiles share and are blended over; a quarter of a tile, at most 64.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Masks: probability from which a pixel is foreground, of one class; 0.5."),
    ] = None,
    max_megapixels: Annotated[
        float | None,
        typer.Option(min=1, max=1e6, help="Take images of so many megapixels, where you trust them; 179 by default."),
    ] = None,
    pictures: Annotated[
        bool | None, typer.Option("--overlay/--no-overlay", help="Masks: draw each over its image too; yes.")
    ] = None,
) -> None:
    """Classify images, or segment them, whichever the network does.

    Classes are printed, likeliest first. Segmentation writes a mask and an overlay picture of each image. Grey,
    palette, RGBA and 16-bit images are taken as they are, photographs upright. What cannot be read is reported, the
    rest goes on, and the exit code is 1.

    Example: `layeract predict -m resnet50_lasilu photographs/ -o classes`, or `layeract predict -m unet_lasilu.nuclei
    slides/ one.png -o masks`
    """
    import timm_layeract  # noqa: F401  (registers the models)

    from ..prediction.predict import predict

    failures = predict(
        model,
        images,
        output,
        form=form,
        top=top,
        batch_size=batch_size,
        tile=tile,
        overlap=overlap,
        threshold=threshold,
        pictures=pictures,
        max_megapixels=max_megapixels,
        report=typer.echo,
    )
    for line in failures:
        typer.echo(f"layeract: {line}", err=True)
    if failures:
        raise typer.Exit(1)
