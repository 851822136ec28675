"""huggingface_hub's names that differ between versions (tested: 0.34, 1.x, 2.x)."""

import importlib
from collections.abc import Iterable
from importlib.metadata import version

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled
from typing_extensions import TypedDict

from ..errors import UserError

__all__ = ["HUB_ERRORS", "OUT_OF_REACH", "EvaluationResult", "evaluation_entries"]


def _transport_errors() -> tuple[type[Exception], type[Exception] | tuple[type[Exception], ...]]:
    """What a call over the network may raise, and of that, what says that nothing was reached.

    The hub calls by requests before 1.0, by httpx before 2.0, and by httpx2, which it exports, since then.
    """
    major = int(version("huggingface-hub").split(".")[0])
    if major == 0:
        requests = importlib.import_module("requests")
        return requests.RequestException, (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        )
    httpx = importlib.import_module("httpx") if major == 1 else huggingface_hub.utils.httpx
    return httpx.HTTPError, httpx.TransportError


_CALL_ERROR, OUT_OF_REACH = _transport_errors()
HUB_ERRORS = (HfHubHTTPError, EntryNotFoundError, FileMetadataError, OfflineModeIsEnabled, _CALL_ERROR)


class EvaluationResult(TypedDict):
    """Arguments of `EvalResultEntry`."""

    dataset_id: str
    task_id: str
    value: float
    date: str
    notes: str


def evaluation_entries(results: Iterable[EvaluationResult]) -> list[dict[str, object]]:
    """Results as the Hub's ``.eval_results`` files hold them.

    Raises:
        UserError: A version without them, before 1.4.
    """
    if not hasattr(huggingface_hub, "EvalResultEntry"):
        found = huggingface_hub.__version__
        raise UserError(f"Model cards with results need huggingface_hub 1.4 or newer; {found} is installed.")
    entries = [huggingface_hub.EvalResultEntry(**result) for result in results]
    return huggingface_hub.eval_result_entries_to_yaml(entries)
