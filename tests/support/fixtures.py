"""The types of what the fixtures give, and the folder of the shared data."""

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from .postgres import Database

CHECKOUT = Path(__file__).resolve().parents[2]

CreateDatabase = Callable[..., Database]
Connect = Callable[..., psycopg.Connection]
ActingAs = Callable[..., AbstractContextManager[psycopg.Connection]]
Cli = Callable[..., subprocess.CompletedProcess[str]]


def shared_folder() -> Path:
    """Return that folder to fixtures of any scope; without it the test is skipped."""
    folder = Path(os.environ.get("OPSKPI_SHARED") or CHECKOUT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}; set OPSKPI_SHARED")
    return folder
