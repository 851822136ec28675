"""`layeract publish`. Thin: each is one call into `hub`, imported when it runs."""

from typing import Annotated

import typer


def publish(
    name: Annotated[str, typer.Argument(help="Checkpoint of the manifest: resnet20_lasilu.cifar10.")],
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
    from ..hub.publish import publish

    done = publish(name, repo, private=private, create_pr=create_pr, dry_run=dry_run, force=force, report=typer.echo)
    for path, size in done.files.items():
        typer.echo(f"{size:>12,} bytes  {path}")
    if done.revision is None:
        typer.echo(f"dry run: nothing was sent to {done.repo}")
    elif done.pinned:
        typer.echo(f"{done.repo}@{done.revision} is pinned in the manifest; run `make cards` and commit both")
    else:
        typer.echo(f"proposed in {done.url}; run the same command without --create-pr once it is merged")
