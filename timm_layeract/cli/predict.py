"""`layeract predict`. Thin: one call into `prediction`, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from .options import NAMES, output_folder


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of which all images are taken.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help=f"Trained segmentation network (unet_lasilu.nuclei): {NAMES}.")
    ],
    output: Annotated[Path, output_folder("Folder for NAME.mask.png and NAME.overlay.png.")] = Path("masks"),
    tile: Annotated[
        int, typer.Option(min=1, max=2**16, help="Side, in pixels, of the tiles that larger images are cut into.")
    ] = 512,
    overlap: Annotated[
        int, typer.Option(min=0, max=2**16, help="Pixels that neighbouring tiles share and are blended over.")
    ] = 64,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Probability from which a pixel is foreground (networks of one class).")
    ] = 0.5,
    max_megapixels: Annotated[
        float | None,
        typer.Option(min=1, max=1e6, help="Take images of so many megapixels, where you trust them; 179 by default."),
    ] = None,
    pictures: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Draw the mask over the image too.")] = True,
) -> None:
    """Segment images: a mask and an overlay picture of each.

    Grey, palette, RGBA and 16-bit images are taken as they are. What cannot be read is reported, the rest goes on, and
    the exit code is 1.

    Example: `layeract predict -m unet_lasilu.nuclei slides/ one.png -o masks`.
    """
    import timm_layeract  # noqa: F401  (registers the models)

    from ..prediction.files import predict_files

    failures = predict_files(
        model,
        images,
        output,
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
