"""What holds for every file: its place in CONTRIBUTING.md's table, what it imports, how it writes, how long it is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import timm_layeract

PACKAGE = Path(timm_layeract.__file__).parent
TABLE = PACKAGE.parent / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def rank() -> dict[str, int]:
    """Top-level module or folder -> its row."""
    rows = [line.split("|")[1] for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    names = {name: row for row, cell in enumerate(rows) for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)}
    assert len(names) > 20
    return names


def imported(path: Path) -> Iterator[str]:
    """The package's top-level modules that a file imports when it is imported itself."""
    folder = path.relative_to(PACKAGE).parent.parts
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            found = [part for part in base if part]
            yield from found[:1] or [alias.name for alias in node.names]


def test_every_file_is_in_the_table(rank: dict[str, int]) -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert files - {"__init__"} <= set(rank)
    assert all((PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists() for name in rank)


def test_imports_follow_the_table(rank: dict[str, int]) -> None:
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imported(path):
            seen += 1
            assert rank[name] <= rank[own], f"{path.relative_to(PACKAGE)} imports {name}, which stands below it"
    assert seen > 300


LINES, BODY = 300, 50  # of a file, of a function without its head and docstring
Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_lines(function: Function) -> int:
    """Lines from a function's first statement after the docstring to its last, blank ones and comments included."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.body[-1].end_lineno - statements[0].lineno + 1 if statements else 0  # type: ignore[operator]


def test_files_and_functions_are_short() -> None:
    files = {path.relative_to(PACKAGE): path.read_text() for path in PACKAGE.rglob("*.py")}
    long = [f"{path} has {count} lines" for path, text in files.items() if (count := text.count("\n")) > LINES]
    for path, text in files.items():
        functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, Function))
        long += [f"{path}, {each.name}: {count} lines" for each in functions if (count := body_lines(each)) > BODY]
    assert not long, "\n".join(long)


@pytest.mark.parametrize(("code", "lines"), [("pass", 1), ("'''a\n  b'''", 0), ('"a"\n a()\n\n b(\n 1)', 4)])
def test_lines_of_a_function(code: str, lines: int) -> None:
    (function,) = ast.parse(f"def f(\n a):\n {code}").body
    assert isinstance(function, Function)
    assert body_lines(function) == lines


def defined(path: Path) -> Iterator[str]:
    """Classes, constants and types that a file defines."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (each.id for each in targets if isinstance(each, ast.Name) and re.match("[A-Z]", each.id))


def test_a_name_means_one_thing() -> None:
    """But for what the kernels of each device define alike, and `compat.PRIVATE`, of each package."""
    places: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if "kernels" not in path.parts and path.parent.name != "compat":
            for name in defined(path):
                places.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert len(places) > 300
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert not twice, twice


UNTYPED = r"\b(?:[Dd]ict|Mapping)\[str, Any\]"


def test_dictionaries_have_types() -> None:
    """Those of other packages have none (their arguments, `_model_args`); of our own, a record says what is in them."""
    found = [f"{path}: {line.strip()}" for path in PACKAGE.rglob("*.py") for line in path.read_text().splitlines()
             if re.search(UNTYPED, line)]  # fmt: skip
    assert len(found) < 30, "\n".join(found)


# Functions that write files, and what has a `save` that does; what goes into `file`, which `writing` gives, may.
WRITES = [
    "write_text", "write_bytes", "savefig", "save_file", "save_model", "dump", "touch", "copyfile", "copyfileobj",
    "copy2", "copytree", "to_csv", "to_json", "to_parquet", "tofile", "savetxt", "savez", "imwrite", "mkstemp",
    "NamedTemporaryFile",
]  # fmt: skip
SAVES = r"(.*\b)?(np|numpy|torch|shutil|image|picture|_?tokenizer|.*\))\.(save|move|copy)"
MODE = r"[rwxabt+]*[wxa+][bt+]*"


def written(path: Path) -> Iterator[str]:
    """The calls of a file that write one, by another way than into what `writing` gives."""
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or any(
            isinstance(each, ast.Name) and each.id == "file" for each in call.args
        ):
            continue
        function = ast.unparse(call.func)
        name = function.split(".")[-1]
        given = [ast.unparse(each).strip("'") for each in (*call.args, *(word.value for word in call.keywords))]
        opens = name == "open" and any(re.fullmatch(MODE, each) for each in given)
        if opens or name in WRITES or re.fullmatch(SAVES, function):
            yield f"{path.name}:{call.lineno}: {ast.unparse(call)[:80]}"


def test_files_are_written_in_one_way() -> None:
    folders = (PACKAGE, PACKAGE.parent / "benchmarks", PACKAGE.parent / "scripts")
    own = ("writing.py", "compatibility.py")  # the way itself; what runs without the package
    files = [path for folder in folders for path in folder.rglob("*.py") if path.name not in own]
    found = [line for path in files for line in written(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')", "path.open('ab')", "path.open(mode='w')", "path.write_text(text)", "json.dump(value, other)",
        "figure.savefig(path)", "np.save(path, array)", "torch.save(state, path)", "Image.fromarray(x).save(path)",
        "save_file(tensors, path)", "shutil.copyfile(a, b)", "shutil.move(a, b)", "self._tokenizer.save(str(path))",
    ],
)  # fmt: skip
def test_other_ways_to_write_are_seen(code: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code)
    assert list(written(tmp_path / "code.py"))


@pytest.mark.parametrize("code", ["path.open('rb')", "open(path)", "np.save(file, array)", "save(tensors, metadata)"])
def test_reading_and_packing_is_no_writing(code: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code)
    assert not list(written(tmp_path / "code.py"))
