"""The `layeract` command: one file a group of subcommands, each subcommand one call into the package."""

import errno
import re
import sys
from typing import Any, NoReturn

from ..allocator import reuse_freed_memory
from ..errors import UserError, WriteError

# Module that only an extra of pyproject.toml installs -> the extra.
EXTRAS = {
    **dict.fromkeys(("accelerate", "datasets", "jinja2", "matplotlib", "rich", "typer", "yaml"), "train"),
    "segmentation_models_pytorch": "segmentation",
    **dict.fromkeys(("cv2", "mlxtend", "scipy", "sklearn", "torchmetrics"), "eval"),
    "imagecorruptions": "frost",
    "tokenizers": "text",
    "tifffile": "tiff",
}

MISTAKE, FAILED, INTERRUPTED = 2, 1, 130  # exit codes
WRONG_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)
WRONG_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR)
LONGEST, SHORT = 280, 200  # characters of what is said, and of an error of a library in it


def __getattr__(name: str) -> Any:
    """`app`, imported when it is asked for, as typer may be missing."""
    if name == "app":
        from .commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> NoReturn:
    """Run the command line. What goes wrong is one line on standard error; `--debug` shows the traceback instead.

    Exit codes: 2 for what the user can fix, 1 for what failed outside (a full disk, the network), 130 for Ctrl-C.
    """
    reuse_freed_memory()
    debug = "--debug" in sys.argv[1:2]
    try:
        from .commands import app

        app(standalone_mode=True)
    except KeyboardInterrupt:
        _stop("stopped.", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _stop(*_described(error))
    sys.exit(0)


def _described(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), MISTAKE
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is not None:
            return f"this needs {error.name}: pip install 'timm-layeract[{extra}]'", MISTAKE
    said = " ".join(str(error).split())[:SHORT] or "no message"
    if isinstance(error, OSError):
        wrong = isinstance(error, WRONG_PATHS) or error.errno in WRONG_NAMES
        return said if isinstance(error, WriteError) else f"{said}.", MISTAKE if wrong else FAILED
    return f"{type(error).__name__}: {said} (`layeract --debug ...` shows where.)", FAILED


def _stop(said: str, code: int) -> NoReturn:
    """Say it in one line that fits a terminal, with what it quotes shortened in the middle, and exit."""
    line = re.sub(r"\S{100,}", lambda found: f"{found[0][:50]}...{found[0][-30:]}", " ".join(said.split()))
    print(f"layeract: {line if len(line) <= LONGEST else line[: LONGEST - 3] + '...'}", file=sys.stderr)
    sys.exit(code)
