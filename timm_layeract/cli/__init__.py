"""The `layeract` command: one file a group of subcommands, each subcommand one call into the package."""

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
}


def __getattr__(name: str) -> Any:
    """`app`, imported when it is asked for, as typer may be missing."""
    if name == "app":
        from .commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> NoReturn:
    """Run the command line: a fault is one line on standard error, and exit code 2, or 1 if the disk is to blame."""
    reuse_freed_memory()
    try:
        from .commands import app

        app(standalone_mode=True)
    except UserError as error:
        print(f"layeract: {error}", file=sys.stderr)
        sys.exit(2)
    except WriteError as error:
        print(f"layeract: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        print(f"layeract: this needs {error.name}: pip install 'timm-layeract[{extra}]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
