"""Signals while the command of a hook runs: who gets what."""

# `signal` makes enums of these numbers, which takes longer than all the rest.
import _signal as signal  # pyright: ignore[reportMissingImports]
import os
import time

__all__ = ["INTERRUPTING", "Forwarding", "signal"]

# By these a person or the system ends a program that could have gone on.
INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Forwarding:
    """Passes on what is sent to this process alone; what a terminal sends, it sends to the command as well."""

    _PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    _WAITED_OUT = (signal.SIGINT, signal.SIGQUIT)

    def __init__(self) -> None:
        self.child_ended: float | None = None
        # Somebody has asked for the end: by the terminal, or by a signal to this process.
        self.interrupted = False
        self._child: int | None = None
        self._early: list[int] = []
        self._before: dict[int, object] = {}

    def start(self) -> None:
        """Take over the signals; what was ignored stays ignored. Does nothing outside of the main thread."""
        try:
            self._replace(signal.SIGCHLD, self._note_end)
            for number in self._PASSED_ON:
                self._replace(number, self._pass_on)
            for number in self._WAITED_OUT:
                self._replace(number, self._wait_out)
        except ValueError:
            return

    def stop(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def to(self, child: "int | None") -> None:
        """Say who gets what arrives from now on."""
        self._child = child
        while child is not None and self._early:
            self._send(self._early.pop(0))

    def _replace(self, number: int, handler) -> None:
        before = signal.getsignal(number)
        # Were SIGCHLD ignored, the system would not tell us how the command ended.
        if before is not None and (before != signal.SIG_IGN or number == signal.SIGCHLD):
            self._before[number] = before
            signal.signal(number, handler)

    def _note_end(self, _number: int, _frame: object) -> None:
        self.child_ended = time.monotonic()

    def _wait_out(self, _number: int, _frame: object) -> None:
        self.interrupted = True

    def _pass_on(self, number: int, _frame: object) -> None:
        if number in INTERRUPTING:
            self.interrupted = True
        if self._child is None:
            self._early.append(number)
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        try:
            if self._child is not None:
                os.kill(self._child, number)
        except OSError:
            return
