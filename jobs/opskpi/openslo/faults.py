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
        self.notes: list[str] = []
        self._files: dict[str, int] = {}
        self._found: dict[tuple[int, int, str], object] = {}
        self._refused_whole: dict[object, set[tuple[int, int, str]]] = {}

    def expect(self, source: str) -> None:
        """Give a file its place in the order of the files."""
        self._files.setdefault(source, len(self._files))

    def add(self, source: str, line: int | None, sentence: str, whole: object = None) -> None:
        """Remember a fault on a line, from 1, or of the whole file; `whole` is the object that has it."""
        self._remember(source, line, sentence, whole)

    def add_only(self, source: str, line: int, sentence: str, whole: object) -> None:
        """Remember a fault beside which no other of the object `whole` is named, found before or after."""
        fault = self._remember(source, line, sentence, whole)
        self._refused_whole.setdefault(whole, set()).add(fault)

    def note(self, source: str, line: int, sentence: str) -> None:
        """Remember something to say that is not a fault."""
        self.notes.append(f"{source}:{line}: {sentence}")

    def raise_if_any(self) -> None:
        """Raise OpsKpiError (BAD_ARGUMENT) with one fault a line, if there is any."""
        if self._found:
            named = [fault for fault, whole in self._found.items() if fault in self._refused_whole.get(whole, {fault})]
            raise OpsKpiError(
                "\n".join(message for _, _, message in sorted(named)),
                "Correct this and run it again; nothing was changed.",
                ExitCode.BAD_ARGUMENT,
            )

    def _remember(self, source: str, line: int | None, sentence: str, whole: object) -> tuple[int, int, str]:
        self.count += 1
        order = self._files.setdefault(source, len(self._files))
        fault = (order, line or 0, f"{source}:{line}: {sentence}" if line else f"{source}: {sentence}")
        self._found[fault] = whole
        return fault
