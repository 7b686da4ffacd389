"""Sums up coverage by folder of `jobs/opskpi`, as Markdown: `python -m tests.support.coverage_by_folder coverage.json`."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

PACKAGE = "opskpi"


def table(report: Mapping[str, Any]) -> str:
    """Return a row per folder of what `coverage json` wrote: files, statements, the share of them that ran."""
    statements, covered, files = Counter[str](), Counter[str](), Counter[str]()
    for name, file in report["files"].items():
        folder = folder_of(name)
        files[folder] += 1
        statements[folder] += file["summary"]["num_statements"]
        covered[folder] += file["summary"]["covered_lines"]
    rows = [(folder, files[folder], statements[folder], covered[folder]) for folder in sorted(files)]
    rows.append(("all", files.total(), statements.total(), covered.total()))
    lines = [f"| {name} | {count} | {found} | {share(ran, found)} |" for name, count, found, ran in rows]
    return "\n".join(["| folder | files | statements | covered |", "| --- | ---: | ---: | ---: |", *lines])


def folder_of(name: str) -> str:
    """Return a module's folder within the package, `opskpi` for the package's own modules."""
    parts = PurePath(name).parts
    within = parts[len(parts) - parts[::-1].index(PACKAGE) : -1]
    return "/".join(within) or PACKAGE


def share(covered: int, statements: int) -> str:
    """Return a percentage, rounded down, so that 100 % is all."""
    return f"{100 * covered // statements} %" if statements else "-"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text("utf-8"))))
