"""Where pretrained weights come from, and what is checked before they are loaded: no pickle, whole, unchanged.

Embedded file, folder in the Hub's layout, or the Hub (through its cache, so offline where it was read before).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from timm.utils import unwrap_model
from torch import nn

from ..compat.huggingface_hub import HUB_ERRORS, OUT_OF_REACH
from ..compat.timm import check_checkpoints, check_pretrained, resolve_pretrained_source
from ..errors import UserError
from .fingerprint import Fingerprint, activation_fingerprint, check_fingerprint
from .manifest import HUB_FILE, WEIGHTS_DIR, read_manifest
from .records import Entry
from .save import WEIGHTS_HASH_KEY, file_sha256, stored_fingerprint

__all__ = [
    "HUB_ERRORS",
    "check_activations",
    "check_weights",
    "download_weights",
    "entry_weights",
    "hub_reason",
    "saved_weights",
    "verified_weights",
]

PICKLES = (".bin", ".pth", ".pt", ".tar", ".ckpt", ".pkl")
CONVERT = "Convert it once by `layeract convert FILE --arch ARCH --out FOLDER`, and load local-dir:FOLDER."


def verified_weights(cfg: Mapping[str, object], cache_dir: str | Path | None = None) -> Path | None:
    """The weight file that timm is about to load for a pretrained_cfg, downloaded and checked.

    Args:
        cfg: Resolved timm pretrained_cfg.
        cache_dir: Cache of the Hub; the usual one if None.

    Returns:
        The file; None where the weights are no file (a state dict in memory, a plain url).

    Raises:
        UserError: Pickled, damaged or changed weights, a hash other than the manifest's, nothing at that place, the
            Hub out of reach.
    """
    kind, place = resolve_pretrained_source(dict(cfg))
    if kind == "hf-hub":
        repo, filename = place if isinstance(place, tuple) else (place, HUB_FILE)
        return _published(repo, filename, cache_dir=cache_dir)
    if kind == "local-dir":
        return _checked(_weights_in(Path(place)))
    if kind == "file":
        return _checked(Path(place), _embedded_sha256(Path(place)))
    return None


def saved_weights(place: str, revision: str | None = None, way_out: str = CONVERT, **options: Any) -> Path:
    """The weight file of a folder in the Hub's layout or of a repository on the Hub, checked.

    Args:
        place: Folder, or ``ORG/NAME``.
        revision: Revision of the repository.
        way_out: What to do with pickled weights, for the message.
        **options: As for `download_weights`.

    Raises:
        UserError: As `verified_weights`.
    """
    if Path(place).is_dir():
        return _checked(_weights_in(Path(place), way_out))
    return _published(f"{place}@{revision}" if revision else place, HUB_FILE, way_out=way_out, **options)


def entry_weights(entry: Entry) -> Path:
    """The checked weight file of an entry of the manifest: the embedded one, else the pinned revision.

    Raises:
        UserError: Neither embedded nor published, out of reach, or not what the manifest says.
    """
    path, hub = WEIGHTS_DIR / entry["file"], entry.get("hub")
    if hub and not path.is_file():
        path = download_weights(f"{hub['repo']}@{hub['revision']}")
    check_weights(path, entry["sha256"])
    return path


def download_weights(repo: str, filename: str = HUB_FILE, way_out: str = CONVERT, **options: Any) -> Path:
    """Fetch a weight file from the Hub into the cache, or find it there.

    Args:
        repo: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        filename: Its path in the repository.
        way_out: What to do with pickled weights, for the message.
        **options: As for `hf_hub_download`: ``cache_dir``, ``force_download``, ``local_files_only``, ``token``.

    Raises:
        UserError: Says what is missing, and how to get it.
    """
    repo_id, _, revision = repo.partition("@")
    if not filename.endswith(".safetensors"):
        raise UserError(_pickled(f"{filename} of {repo}", way_out))
    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision or None, **options))
    except HUB_ERRORS as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise UserError(
                f"{repo} has no {filename}. Weights of other kinds are pickles, which can run code when they are "
                f"loaded, and are refused. {way_out}"
            ) from error
        raise UserError(f"{filename} of {repo} could not be loaded: {hub_reason(error)}") from error


def hub_reason(error: Exception) -> str:
    """A failed call to the Hub in one sentence that says what to do; never with a token in it."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        return hub_reason(error.__cause__)
    if isinstance(error, GatedRepoError):
        return "its owner grants access on request; ask on its page on the Hub, then log in by `hf auth login`."
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private; check the name, or log in by `hf auth login`."
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision; check what stands after the @."
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, FileMetadataError, OUT_OF_REACH)):
        return (
            "it is not in the cache and the Hub cannot be reached; unset HF_HUB_OFFLINE if it is set, check the "
            "connection (and HF_ENDPOINT), and try again."
        )
    status = f"{error.response.status_code}: " if isinstance(error, HfHubHTTPError) else ""
    said = getattr(error, "server_message", None) or str(error).strip().splitlines()[0]
    return f"the Hub answered {status}{said}"


def check_activations(model: nn.Module, path: Path, features: bool = False) -> None:
    """Refuse a weight file that was saved with other activations than a model runs.

    Args:
        model: That is to get the weights; DistributedDataParallel and compiled ones are looked into.
        path: The file, or a folder in the Hub's layout. Only safetensors may say what they were saved with.
        features: The model may be the features of the network that was saved: some of its activations, and no other.

    Raises:
        UserError: Other activations, or no whole safetensors file.
    """
    path = path / HUB_FILE if path.is_dir() else path
    if path.suffix == ".safetensors" and path.is_file():
        check_weights(path)
        expected = stored_fingerprint(path)
        if expected is not None:
            network = unwrap_model(model)
            check_fingerprint(_of_features(expected, network) if features else expected, network, str(path))


def _check_pretrained(
    model: nn.Module, cfg: Mapping[str, object], cache_dir: str | Path | None, features: bool
) -> None:
    """`check_activations` for the file that timm has read for a pretrained_cfg."""
    kind, place = resolve_pretrained_source(dict(cfg))
    if kind == "hf-hub":
        repo, filename = place if isinstance(place, tuple) else (place, HUB_FILE)
        repo_id, _, revision = repo.partition("@")
        # timm prefers safetensors to the pickle that is named
        name = filename if filename.endswith(".safetensors") else HUB_FILE
        cached = try_to_load_from_cache(repo_id, name, cache_dir, revision or None)
        if isinstance(cached, str):
            check_activations(model, Path(cached), features)
    elif kind in ("local-dir", "file"):
        check_activations(model, Path(place), features)


def _of_features(expected: Fingerprint, model: nn.Module) -> Fingerprint:
    """A network's fingerprint as its features have it, which lack the head and may name the same activations anew."""
    modules = dict(model.named_modules(remove_duplicate=False))
    kept = {site: activation for site, activation in expected.items() if site in modules}
    renamed = {
        site: activation
        for site, activation in activation_fingerprint(model).items()
        if site not in expected and activation in expected.values()
    }
    return kept | renamed


check_checkpoints(check_activations)
check_pretrained(_check_pretrained)


def check_weights(path: Path, sha256: str | None = None) -> None:
    """Refuse a weight file that is not a complete safetensors file, or has another hash than it should.

    Args:
        path: The file.
        sha256: What it should be; None where that is not known.

    Raises:
        UserError: Names the file, the fault and what to do.
    """
    if not path.is_file():
        raise UserError(f"There is no weight file {path}.")
    if path.suffix in PICKLES:
        raise UserError(_pickled(str(path)))
    mend = "reinstall the package" if path.is_relative_to(WEIGHTS_DIR) else "delete it and get it again"
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}): it is cut short or damaged; {mend}."
        ) from error
    if sha256 and file_sha256(path) != sha256:
        raise UserError(
            f"{path} is not the file that was published: its sha256 is {file_sha256(path)}, it should be {sha256}; "
            f"it was changed or damaged on the way; {mend}."
        )


def _published(repo: str, filename: str, **options: Any) -> Path:
    return _checked(download_weights(repo, filename, **options), _pinned_sha256(repo))


def _checked(path: Path, sha256: str | None = None) -> Path:
    """The file, checked against a hash, else against the one in the config.json beside it."""
    check_weights(path, sha256 or _config_sha256(path))
    return path


def _pickled(what: str, way_out: str = CONVERT) -> str:
    return f"{what} holds pickled weights, which can run code when they are loaded, and is refused. {way_out}"


def _weights_in(folder: Path, way_out: str = CONVERT) -> Path:
    """The safetensors file of a folder in the Hub's layout."""
    path = folder / HUB_FILE
    if not path.is_file():
        pickles = [each.name for each in sorted(folder.glob("*")) if each.suffix in PICKLES]
        raise UserError(
            _pickled(str(folder / pickles[0]), way_out) if pickles else f"There is no {HUB_FILE} in {folder}."
        )
    return path


def _pinned_sha256(repo: str) -> str | None:
    """Hash in the manifest of what was published as ``ORG/NAME@REVISION``."""
    for entry in read_manifest().values():
        hub = entry.get("hub")
        if hub and repo == f"{hub['repo']}@{hub['revision']}":
            return entry["sha256"]
    return None


def _embedded_sha256(path: Path) -> str | None:
    """Hash in the manifest of a file that ships with the package."""
    if path.parent != WEIGHTS_DIR:
        return None
    return next((entry["sha256"] for entry in read_manifest().values() if entry["file"] == path.name), None)


def _config_sha256(path: Path) -> str | None:
    """Hash in the config.json beside a weight file, which every folder that we write has."""
    config = path.parent / "config.json"
    if not config.is_file():
        return None
    try:
        held = json.loads(config.read_text())
    except ValueError as error:
        raise UserError(f"{config} is not a JSON file ({error}): it is damaged; get it again.") from error
    return held.get(WEIGHTS_HASH_KEY) if isinstance(held, dict) else None
