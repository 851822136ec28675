"""Options that several subcommands share, and dataclasses of options as a command's parameters."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from .._utils.options import Option, options_of, shortened
from .._utils.writing import check_file, check_folder
from ..errors import UserError
from ..training.options import RunOptions


def output_folder(help: str, flag: str = "--output") -> Any:
    """The option of a folder for results, refused at once where it could not be made or written into."""
    return _output(check_folder, help, flag)


def output_file(help: str) -> Any:
    """The option of a file for results, refused likewise."""
    return _output(check_file, help, "--output")


def _output(check: Callable[[Path, str], None], help: str, flag: str) -> Any:
    def checked(path: Path | None) -> Path | None:
        if path is not None:
            check(path, flag)
        return path

    return typer.Option(flag, *(["-o"] if flag == "--output" else []), help=help, callback=checked)


# How networks are called, in the grammar of `networks.source`.
NETWORK_NAMES = (
    "timm name (resnet20_lasilu, resnet50.a1_in1k), hf-hub:ORG/NAME, folder of a model or training run, smp:FOLDER, "
    "ARCHITECTURE=FILE, package.module:function returning a network"
)
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help=f"Network: {NETWORK_NAMES}, or smp:ARCHITECTURE/ENCODER of segmentation_models_pytorch.",
    ),
]
_HELP = {field.name: option.help for field, _, option in options_of(RunOptions)}
Data = Annotated[str, typer.Option("--data", "-d", help=_HELP["data"])]
DataName = Annotated[str | None, typer.Option(help=_HELP["data_name"])]
ImageColumn = Annotated[str | None, typer.Option("--image", help=_HELP["image_column"])]
LabelColumn = Annotated[str | None, typer.Option("--label", help=_HELP["label_column"])]
DigitData = Annotated[
    str | None,
    typer.Option("--data", "-d", help="MNIST as a folder or on the Hub (ylecun/mnist); 5,000 digits if left out."),
]
Output = Annotated[Path | None, output_folder("New folder for log, checkpoints, model and result.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print recipe, model size, steps and estimated time; train nothing.")
]


def with_options(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameters of dataclasses become their options, but for those `without`.

    The command gets each dataclass with the values that were given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        groups: dict[str, type] = {
            name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)
        }
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command).parameters.items():
            if name in groups:
                options = options_of(hints[name])
                parameters += [_parameter(*each) for each in options if each[0].name not in without]
            else:
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(inspect.Parameter(name, kind, default=parameter.default, annotation=hints[name]))

        def run(**values: Any) -> None:
            for name, kind in groups.items():
                fields = [field.name for field, *_ in options_of(kind) if field.name in values]
                values[name] = kind(**{field: values.pop(field) for field in fields})
            command(**values)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _parameter(field: dataclasses.Field[Any], kind: Any, option: Option) -> inspect.Parameter:
    """An option as typer reads it."""
    spelt = [option.spelt(field.name)]
    if kind is bool and field.default is True:
        spelt = [f"{spelt[0]}/--no-{spelt[0].removeprefix('--')}"]
    declared = typer.Option(*spelt, *([option.short] if option.short else []), help=option.help)
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def given(output: Path | None) -> Path:
    """The folder that a run needs which is no dry one."""
    if output is None:
        raise UserError("Say where to put the run with --output FOLDER, or try it with --dry-run.")
    return output


def parse_names(option: str, text: str | None) -> tuple[str, ...]:
    """``"noise,fog"`` as names; none of no text. Errors name the option."""
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UserError(f"{option} takes names with commas between them, got {shortened(text)}.")
    return names


def parse_numbers(option: str, text: str | None) -> tuple[int, ...]:
    """``"11,22"`` as whole numbers of 0 or more, each once; none of no text. Errors name the option."""
    try:
        numbers = () if text is None else tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise UserError(f"{option} takes whole numbers with commas, got {shortened(text)}.") from error
    wrong = [number for number in numbers if number < 0 or numbers.count(number) > 1]
    if wrong:
        raise UserError(f"{option} takes whole numbers of 0 or more, each once, got {shortened(text)}.")
    return numbers
