"""`layeract list`, `info`, `download`, `convert`, `publish`. Thin: each is one call into `release`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .options import output_folder

Name = Annotated[str, typer.Argument(help="Trained weights: resnet20_lasilu.cifar10, or resnet20_lasilu.")]


def list_(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, such as '*lasilu*'.")] = "*",
) -> None:
    """List the trained weights: where they are, what they score, how large they are.

    Example: `layeract list '*lasilu*'`
    """
    from rich.console import Console
    from rich.table import Column, Table

    from ..release.zoo import list_weights

    found = list_weights(pattern)
    if not found:
        raise UserError(f"No trained weights match {pattern!r}; `layeract list` shows all.")
    table = Table(Column("name", no_wrap=True), "data", "test", "params", "file", "where", box=None, pad_edge=False)
    for each in found:
        size = f"{each.bytes / 2**20:.1f} MiB"
        table.add_row(each.name, each.data, each.test, f"{each.parameters / 1e6:.2f} M", size, each.place)
    Console().print(table)


def info(name: Name) -> None:
    """Show what is known of trained weights.

    Example: `layeract info resnet20_lasilu`
    """
    from ..release.zoo import describe_weights

    for label, value in describe_weights(name).items():
        typer.echo(f"{label + ':':16}{value}")


def download(name: Name) -> None:
    """Fetch trained weights from the Hub into its cache, check them, and print the path of the file.

    Weights that ship with the package are only checked. HF_HOME moves the cache.

    Example: `layeract download resnet20_lasilu`
    """
    from ..release.zoo import get_weights

    typer.echo(get_weights(name))


def convert(
    file: Annotated[Path, typer.Argument(help="State dict: .pth, .pth.tar or .safetensors, tensors only.")],
    arch: Annotated[str, typer.Option("--arch", help="Architecture of ours that it is for: resnet20_lasilu.")],
    out: Annotated[Path, output_folder("New folder, which local-dir:FOLDER loads.", "--out")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Code it comes from: layeract (the LayerAct authors') or timm (torchvision and ours too). Left out, "
            "the keys tell, but for ImageNet ResNets.",
        ),
    ] = None,
) -> None:
    """Convert a checkpoint of other code into a folder in the Hub's layout, with the same logits.

    From layeract: their CIFAR ResNets (20, 32, 44 layers), ImageNet ResNets and U-Net (--arch unet_lasilu), whose
    logits are those before its sigmoid. A checkpoint does not tell its activation: --arch does. ReLU weights given to
    another activation are a start for training, no more.

    Example: `layeract convert resnet20_la_silu.pth.tar --arch resnet20_lasilu --out converted`
    """
    from ..release.convert import convert

    done = convert(file, arch, out, source)
    for theirs, ours in done.renamed.items():
        typer.echo(f"{theirs} -> {ours}")
    typer.echo(f"{done.tensors} tensors as {done.architecture}, which runs {', '.join(done.activations)}")
    typer.echo(f'timm.create_model("local-dir:{done.folder}", pretrained=True)')


def publish(
    name: Name,
    repo: Annotated[str, typer.Option("--repo", help="Where it goes: ORG/NAME, made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make the new repository private.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose the files in a pull request instead of committing them.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but the network, and show what would be sent.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another model that the repository holds, all its files.")
    ] = False,
) -> None:
    """Put a trained network on the Hugging Face Hub (for maintainers).

    The weights are checked first: finite, hash as in the manifest, logits as recorded. They go as safetensors with
    card, config and results in one commit, are read back and checked again, and the manifest names the commit.

    Example: `layeract publish resnet20_lasilu.cifar10 --repo my-org/resnet20_lasilu.cifar10 --dry-run`
    """
    from ..release.publish import publish

    done = publish(name, repo, private=private, create_pr=create_pr, dry_run=dry_run, force=force, report=typer.echo)
    for path, size in done.files.items():
        typer.echo(f"{size:>12,} bytes  {path}")
    if done.revision is None:
        typer.echo(f"dry run: nothing was sent to {done.repo}")
    elif done.pinned:
        typer.echo(f"{done.repo}@{done.revision} is pinned in the manifest; run `make cards` and commit both")
    else:
        typer.echo(f"proposed in {done.url}; run the same command without --create-pr once it is merged")
