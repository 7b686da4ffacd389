"""Tests lie where what they test lies, and a helper's name means one thing over all of them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PACKAGES = ROOT / "jobs" / "opskpi"
FILES = [path for path in sorted(TESTS.rglob("*.py")) if "benchmarks" not in path.parts]
# Folders whose subject is more than a package, and files whose subject is a package as a whole.
OWN_SUBJECT = {"acceptance", "benchmarks", "browser", "database", "schema", "support"}
WHOLE_PACKAGE = {
    "hooks/test_commands.py", "hooks/test_hub.py", "hooks/test_kills.py", "hooks/test_mishaps.py",
    "provenance/test_shared.py",
}  # fmt: skip


def names_in(folder: Path) -> set[str]:
    """Return the names of the modules of a package, or of the files of a folder of `sql/` without their numbers."""
    modules = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
    return modules | {path.stem.partition("_")[2] for path in folder.glob("*.sql")}


def mirrored() -> Iterator[tuple[Path, Path]]:
    """Yield each test file that mirrors a file, with the folder of that file."""
    for path in FILES:
        place = path.relative_to(TESTS)
        if not path.name.startswith("test_") or len(place.parts) == 1:
            continue
        if place.parts[0] == "database":
            yield path, ROOT / "sql" / Path(*place.parts[1:-1])
        elif place.parts[0] not in OWN_SUBJECT and place.as_posix() not in WHOLE_PACKAGE:
            yield path, PACKAGES / place.parent


@pytest.mark.parametrize(("path", "folder"), list(mirrored()), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_test_file_bears_the_name_of_the_file_that_it_tests(path: Path, folder: Path) -> None:
    """It may go on with what of the file it is about: test_states_in_any_order.py is about 30_states.sql."""
    assert folder.is_dir()
    name = path.stem.removeprefix("test_")
    assert [subject for subject in names_in(folder) if name == subject or name.startswith(f"{subject}_")]


def helpers() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield what test files define for other tests: functions, fixtures and classes."""
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            is_one = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if is_one and not node.name.startswith(("test_", "pytest_", "_")):
                yield path, node


def test_the_name_of_a_helper_has_one_meaning() -> None:
    places = defaultdict(list)
    for path, node in helpers():
        places[node.name].append(path.relative_to(TESTS).as_posix())
    # What runs a program is called `main` in each.
    assert {name: files for name, files in places.items() if len(files) > 1 and name != "main"} == {}


def test_a_helper_is_annotated() -> None:
    bare = []
    for path, node in helpers():
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if node.returns is None or not all(argument.annotation for argument in arguments):
            bare.append(f"{path.relative_to(TESTS)}: {node.name}")
    assert bare == []
