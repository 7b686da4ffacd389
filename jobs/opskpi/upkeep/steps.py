"""The steps of a run: each by itself, so that one that fails keeps none of the others from its work."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psycopg

from opskpi.errors import ExitCode, OpsKpiError, explain

# The worst first: what only a person can mend is worse than what may pass by itself.
WORST_FIRST = (ExitCode.CONFIGURATION, ExitCode.BAD_ARGUMENT, ExitCode.FAILED, ExitCode.BREACH, ExitCode.TRY_LATER)
# A server whose process crashed is back after its recovery.
RECONNECTING_S = 30


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a step: why, what to do about it, and the exit code that it alone would have."""

    step: str
    message: str
    hint: str
    exit_code: ExitCode


@dataclass(slots=True)
class Steps:
    """Takes steps over a connection, which `connect` opens again after it was lost; `tell` gets a line a failure."""

    connection: psycopg.Connection
    connect: Callable[[], psycopg.Connection]
    tell: Callable[[str], None]
    failures: list[Failure] = field(default_factory=list)

    def take(self, step: str, work: Callable[[psycopg.Connection], Result]) -> Result | None:
        """The result of a step, None where it failed; a failure is told and kept in place of an earlier one of it."""
        self.failures = [failure for failure in self.failures if failure.step != step]
        try:
            return work(self._connected())
        except OpsKpiError as error:
            failure = error
        except psycopg.Error as error:
            failure = explain(error)
        except Exception as error:  # noqa: BLE001 - an error that nobody has thought of keeps no other step from its work
            # The text of an unknown error may quote a secret; its place does not.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            failure = OpsKpiError(f"unexpected {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}")
        self.failures.append(Failure(step, failure.message, failure.hint, failure.exit_code))
        self.tell(f"opskpi: {step}: {failure.message}" + (f" ({failure.hint})" if failure.hint else ""))
        return None

    def may_pass(self, step: str) -> bool:
        """Whether the step failed when it was taken last, for a reason that may be over by now."""
        return any(failure.step == step and failure.exit_code == ExitCode.TRY_LATER for failure in self.failures)

    def end(self) -> None:
        """Close the connection. Raises OpsKpiError with the exit code of the worst step, where one has failed."""
        self.connection.close()
        if self.failures:
            names = ", ".join(failure.step for failure in self.failures)
            worst = min((failure.exit_code for failure in self.failures), key=WORST_FIRST.index)
            raise OpsKpiError(f"failed: {names}", exit_code=worst)

    def _connected(self) -> psycopg.Connection:
        deadline = time.monotonic() + RECONNECTING_S
        while self.connection.closed:
            try:
                self.connection = self.connect()
            except OpsKpiError as error:
                if error.exit_code != ExitCode.TRY_LATER or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        return self.connection
