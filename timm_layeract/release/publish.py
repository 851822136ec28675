"""Publishing a checkpoint of the manifest: checked before it goes, one commit, read back and checked again, pinned."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .._utils.names import NAME_KEY
from ..checkpoints.load import HUB_ERRORS, hub_reason
from ..checkpoints.manifest import (
    CARDS_DIR,
    WEIGHTS_DIR,
    Manifest,
    check_manifest,
    find_entry,
    read_manifest,
    write_manifest,
)
from ..checkpoints.records import Entry
from ..checkpoints.save import file_sha256
from ..errors import UserError
from .stage import GOLDEN, check_golden, load_published, stage, staged_files

__all__ = ["Publication", "publish"]

REASONS = {
    401: "the token is not valid; make one with write access on the Hub's settings page and run `hf auth login`.",
    403: "the token may not write there; use one with write access to it, or --create-pr to propose the files.",
    412: "the repository was changed meanwhile; look at it and run the command again.",
}


@dataclass(frozen=True)
class Publication:
    """What was, or by a dry run would be, published.

    Attributes:
        name: ``arch.tag``.
        repo: ``ORG/NAME``.
        files: Path in the repository -> bytes.
        revision: The commit, None after a dry run.
        url: URL of the commit or the pull request.
        pinned: Whether the manifest names the revision now.
    """

    name: str
    repo: str
    files: dict[str, int]
    revision: str | None = None
    url: str | None = None
    pinned: bool = False


def publish(
    name: str,
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    force: bool = False,
    directory: Path = WEIGHTS_DIR,
    cards: Path = CARDS_DIR,
    report: Callable[[str], None] = print,
) -> Publication:
    """Put a checkpoint on the Hub so that timm loads it from there with the same logits.

    Running it again after a failure is safe: what is there already is not sent twice.

    Args:
        name: ``arch.tag`` in the manifest, or ``arch`` where it has a single tag.
        repo: ``ORG/NAME``; made if need be.
        private: Make a new repository private.
        create_pr: Propose the files in a pull request. The manifest pins nothing then; run it again once merged.
        dry_run: Do everything but the network.
        force: Replace another model that the repository holds, all its files.
        directory: Folder of the weights and the manifest.
        cards: Folder of the cards' pictures.
        report: Called with lines for a person to read.

    Raises:
        UserError: ``arch`` has several tags; the weights are not what the manifest says or do not give the golden
            logits; no token, no permission, another model there, a changed repository, a lost connection. Nothing is
            half-published.
    """
    manifest = read_manifest(directory)
    check_manifest(manifest)
    _check_one_tag(name, manifest)
    name, entry = find_entry(name, manifest)
    _check_repo(repo)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        stage(name, manifest, repo, folder, directory, cards)
        files = {path: (folder / path).stat().st_size for path in staged_files(folder)}
        report(f"{name}: weights finite, hash as in the manifest, logits as recorded")
        if dry_run:
            return Publication(name, repo, files)
        if get_token() is None:
            raise UserError("There is no token for the Hub; run `hf auth login`, or set HF_TOKEN.")
        commit = _push(name, repo, folder, private=private, create_pr=create_pr, force=force)
        report(f"sent: {commit.pr_url or commit.commit_url}")
        _verify(entry, repo, commit.oid, folder, Path(scratch) / "cache")
        report("read back into an empty cache: the same files, the same logits")
    if not create_pr:
        entry["hub"] = {"repo": repo, "revision": commit.oid}
        write_manifest({**read_manifest(directory), name: entry}, directory)
    return Publication(name, repo, files, commit.oid, commit.pr_url or commit.commit_url, pinned=not create_pr)


def _check_one_tag(name: str, manifest: Manifest) -> None:
    """Refuse to take the default tag of several: what is published should have been named."""
    tagged = [known for known in manifest if known.split(".")[0] == name]
    if len(tagged) > 1:
        raise UserError(f"{name} has weights under several tags; name one: {', '.join(tagged)}.")


def _check_repo(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--repo {repo}: {error}") from error
    if repo.count("/") != 1:
        raise UserError(f"--repo takes ORG/NAME, got {repo!r}.")


def _push(name: str, repo: str, folder: Path, *, private: bool, create_pr: bool, force: bool) -> CommitInfo:
    """Send the folder as one commit on top of what the repository holds; one made for it is deleted on failure."""
    api = HfApi(library_name="timm-layeract")
    try:
        there = _existing(api, repo)
        if there is None and create_pr:
            raise UserError(f"There is no {repo} to propose files to; leave --create-pr out.")
        if there is not None and private and not there.private:
            raise UserError(f"{repo} exists and is public; --private is for a new one.")
        stale = [] if there is None else _replaced(api, there, name, force)
        if there is None:
            api.create_repo(repo, private=private or None)
        parent = (there or api.model_info(repo)).sha
    except (*HUB_ERRORS, ValueError) as error:
        raise _failure(f"{name} was not published to {repo}", error) from error
    additions = [CommitOperationAdd(path, folder / path) for path in staged_files(folder)]
    deletions = [CommitOperationDelete(path) for path in stale if path not in staged_files(folder)]
    try:
        return api.create_commit(
            repo,
            [*additions, *deletions],
            commit_message=f"Publish {name}",
            parent_commit=parent,
            create_pr=create_pr,
        )
    except (*HUB_ERRORS, ValueError, RuntimeError) as error:
        kept = "" if there is not None or _withdraw(api, repo, parent) else f" Look at {repo}, which was made for it."
        raise _failure(f"{name} was not published to {repo}", error, kept) from error


def _existing(api: HfApi, repo: str) -> ModelInfo | None:
    try:
        return api.model_info(repo)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:
            raise UserError(f"{repo} was not published: {REASONS[401]}") from error
        return None


def _replaced(api: HfApi, there: ModelInfo, name: str, force: bool) -> list[str]:
    """Files of another model that a repository holds, refused without `force`; none where it holds this one."""
    held = [sibling.rfilename for sibling in there.siblings or [] if sibling.rfilename != ".gitattributes"]
    if not held:
        return []
    other = "something that is no timm model"
    if "config.json" in held:
        with tempfile.TemporaryDirectory() as cache:
            path = api.hf_hub_download(there.id, "config.json", revision=there.sha, cache_dir=cache)
            try:
                config = json.loads(Path(path).read_text())
                other = config.get(NAME_KEY) or f"{config['architecture']}.{config['pretrained_cfg']['tag']}"
            except (ValueError, KeyError, TypeError, AttributeError):
                other = "a model whose config.json cannot be read"
    if other == name:
        return []
    if not force:
        raise UserError(f"{there.id} holds {other}, not {name}; choose another --repo, or replace it all by --force.")
    return held


def _withdraw(api: HfApi, repo: str, empty: str | None) -> bool:
    """Delete the repository that was just made, unless something has been committed to it since."""
    try:
        if api.model_info(repo).sha != empty:
            return False
        api.delete_repo(repo)
    except HUB_ERRORS:
        return False
    return True


def _failure(what: str, error: Exception, more: str = "") -> UserError:
    """One line of what went wrong with the Hub."""
    if isinstance(error, UserError):
        return error
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if isinstance(cause, HUB_ERRORS):
        reason = REASONS.get(status or 0) or hub_reason(cause)
    else:
        reason = " ".join(str(cause).split())
    return UserError(f"{what}: {reason}{more}")


def _verify(entry: Entry, repo: str, revision: str, folder: Path, cache: Path) -> None:
    """Read a revision into an empty cache and compare every file and the logits with what was sent."""
    again = "The manifest is unchanged; run the command again, nothing is sent twice."
    api = HfApi()
    try:
        for path in staged_files(folder):
            received = Path(api.hf_hub_download(repo, path, revision=revision, cache_dir=cache))
            if file_sha256(received) != file_sha256(folder / path):
                raise UserError(f"{path} of {repo}@{revision} is not what was sent. {again}")
        model = load_published(entry, repo, revision, cache)
    except HUB_ERRORS as error:
        raise _failure(f"{repo}@{revision} was published, but could not be read back", error, f" {again}") from error
    check_golden(model, folder / GOLDEN, f"{repo}@{revision}")
