"""All that is wrong with the files that were read."""

from opskpi.errors import ExitCode, OpsKpiError


class Faults:
    """What is wrong, in the order of the files and their lines.

    `count` grows with every fault: what was read without it growing is sound. `incomplete` says
    that a file could not be read to its end: what is missing elsewhere may stand there.
    """

    def __init__(self) -> None:
        self.count = 0
        self.incomplete = False
        self._files: dict[str, int] = {}
        self._found: set[tuple[int, int, str]] = set()

    def expect(self, source: str) -> None:
        """Give a file its place in the order of the files."""
        self._files.setdefault(source, len(self._files))

    def add(self, source: str, line: int | None, sentence: str) -> None:
        """Remember a fault on a line, from 1, or of the whole file."""
        self.count += 1
        order = self._files.setdefault(source, len(self._files))
        self._found.add((order, line or 0, f"{source}:{line}: {sentence}" if line else f"{source}: {sentence}"))

    def raise_if_any(self) -> None:
        """Raise OpsKpiError (BAD_ARGUMENT) with one fault a line, if there is any."""
        if self._found:
            raise OpsKpiError(
                "\n".join(message for _, _, message in sorted(self._found)),
                "Correct this and run it again; nothing was changed.",
                ExitCode.BAD_ARGUMENT,
            )
