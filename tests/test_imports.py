"""The floors of `jobs/opskpi`: imports go down only, and no module imports itself by a detour."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parents[1] / "jobs"
# From the ground up. A package imports from floors below its own and from itself, never from its neighbours.
FLOORS = (
    {"columns", "errors", "orgs", "texts"},
    {"tables"},
    {"clocks", "console", "files", "groups", "postgres", "access", "outbound"},
    {"counting", "dashboard", "exporting", "github", "grafana", "hooks", "ingestion", "objectives", "provenance"}
    | {"status", "upkeep"},
    {"alerting", "demo", "hub"},
    {"openslo"},
    {"commands"},
    {"__main__"},
)
FLOOR_OF = {package: number for number, packages in enumerate(FLOORS) for package in packages}


def modules() -> dict[str, Path]:
    """Every module of opskpi by its dotted name."""
    found = {}
    for file in sorted(JOBS.glob("opskpi/**/*.py")):
        name = ".".join(file.relative_to(JOBS).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The modules of opskpi that a module imports, within its functions too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "opskpi":
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "opskpi")


IMPORTS = {name: set(imported(name)) for name in MODULES}


def package_with(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def test_every_package_has_its_floor() -> None:
    assert {package_with(name) for name in MODULES} - {"opskpi"} == set(FLOOR_OF)


@pytest.mark.parametrize("package", sorted(FLOOR_OF))
def test_a_package_imports_only_from_floors_below_its_own(package: str) -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in sorted(others)
        if package_with(name) == package != package_with(other)
        if package_with(other) == "opskpi" or FLOOR_OF[package_with(other)] >= FLOOR_OF[package]
    ]
    assert upward == []


def test_no_module_imports_itself_by_a_detour() -> None:
    left = {name: set(others) for name, others in IMPORTS.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}
