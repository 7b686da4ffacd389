"""The kinds of channels, and the sending of one delivery: no secret gets into a reason or a log."""

import importlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from opskpi.alerting.channels.settings import Setting
from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry
from opskpi.outbound.limits import Timeouts
from opskpi.outbound.secrets import Misconfigured

# Modules of this package. Everything that knows kinds asks here: files, sending, the guide.
KINDS = ("slack", "email", "webhook", "apprise")


class Kind(Protocol):
    """What the module of a kind has."""

    ADDRESS: str
    SETTINGS: tuple[Setting, ...]

    @staticmethod
    def send(delivery: Delivery, environ: Mapping[str, str], timeouts: Timeouts, /) -> Outcome:
        """Send one delivery. Raises Misconfigured for what is missing or wrong in the environment."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """The needs of a kind: what the variable of `secret_env` holds, and the annotations that files set beside it."""

    kind: str
    secret: str
    annotations: str


def needs() -> list[Needs]:
    """What a channel of each kind needs."""
    return [Needs(name, kind_of(name).ADDRESS, _annotations(kind_of(name).SETTINGS)) for name in KINDS]


def _annotations(settings: Iterable[Setting]) -> str:
    return "; ".join(
        f"opskpi.dev/{setting.name} ({'required, ' if setting.missing else ''}{setting.meaning})"
        for setting in settings
    )


def kind_of(name: str) -> Kind:
    """The module of one of KINDS, imported when it is asked for, because HTTP and mail libraries load slowly."""
    return cast("Kind", importlib.import_module(f"opskpi.alerting.channels.{name}"))


def send(delivery: Delivery, environ: Mapping[str, str], *, timeouts: Timeouts = Timeouts()) -> Outcome:  # noqa: B008
    """Send one delivery, with the secrets of `environ`, within `timeouts.sending` seconds.

    Gives Sent, Retry (later, `after` at the earliest) or Refused (never as it is); raises nothing but what ends the
    process. What is missing or wrong in the environment is worth a retry, since the operator can mend it.
    """
    if delivery.channel_kind not in KINDS:
        return Refused("this version of opskpi does not know the kind of this channel")
    outcome = _within(timeouts.sending, lambda: _send(delivery, environ, timeouts))
    return Retry(None, "no answer in time") if outcome is None else outcome


def _send(delivery: Delivery, environ: Mapping[str, str], timeouts: Timeouts) -> Outcome:
    try:
        with _SILENCE.kept():
            return kind_of(delivery.channel_kind).send(delivery, environ, timeouts)
    except Misconfigured as error:
        return Retry(None, str(error), "channel")
    except Exception as error:  # noqa: BLE001 - one delivery must not stop the others
        # The text of an unknown error may quote a secret; its place does not.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Retry(None, f"unexpected {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}")


def _within(seconds: float, call: Callable[[], Outcome]) -> Outcome | None:
    """The result of a call, None when it takes longer.

    A thread, because name look-ups, the steps of SMTP and the library apprise know no limit for all of it together.
    A late message may still arrive, as after a crash; the thread does not keep the process from ending.
    """
    result: Future[Outcome] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            result.set_exception(error)

    threading.Thread(target=work, daemon=True, name="opskpi send").start()
    try:
        return result.result(timeout=seconds)
    except TimeoutError:
        if result.done():
            raise
        return None


@dataclass(slots=True)
class _Silence:
    """Nothing is logged while a channel sends: httpx, urllib3 and apprise log addresses, tokens included."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    holders: int = 0
    before: int = logging.NOTSET

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep silent until the last sender, late ones included, has ended."""
        with self.lock:
            if self.holders == 0:
                self.before = logging.root.manager.disable
                logging.disable(logging.CRITICAL)
            self.holders += 1
        try:
            yield
        finally:
            with self.lock:
                self.holders -= 1
                if self.holders == 0:
                    logging.disable(self.before)


_SILENCE = _Silence()
