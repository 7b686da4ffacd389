"""Fixtures of the tests of OpenSLO: texts that are read as files, and what is said about those that are refused."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from opskpi import openslo
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.openslo import Definitions


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Definitions]:
    """Reads texts as slo.yaml, b.yaml, c.yaml, d.yaml in this order."""
    monkeypatch.chdir(tmp_path)

    def read(*texts: str | bytes, known_channels: Collection[str] = ()) -> Definitions:
        paths = [Path(name) for name in ("slo.yaml", "b.yaml", "c.yaml", "d.yaml")[: len(texts)]]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return openslo.read(paths, known_channels=known_channels)

    return read


@pytest.fixture
def faults(reading: Callable[..., Definitions]) -> Callable[..., list[str]]:
    """The messages about texts that are refused."""

    def refuse(*texts: str | bytes, known_channels: Collection[str] = ("on-call",)) -> list[str]:
        with pytest.raises(OpsKpiError) as refused:
            reading(*texts, known_channels=known_channels)
        assert refused.value.exit_code is ExitCode.BAD_ARGUMENT
        assert refused.value.hint
        return refused.value.message.splitlines()

    return refuse
