"""Settings of a channel beside its secret, as each kind declares them for files and for the database."""

from dataclasses import dataclass
from typing import Literal

Form = Literal["addresses", "address", "variable"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: the annotation `opskpi.dev/NAME` in a file, the key `key` of `settings` in `ops.alert_channels`.

    Form `addresses` is a list of e-mail addresses, `address` one of them, `variable` the name of an environment
    variable that holds a secret. `meaning` describes the value to users. `missing` is the reason for which a
    channel without the setting is refused; empty: the setting is optional.
    """

    name: str
    form: Form
    meaning: str
    missing: str = ""

    @property
    def key(self) -> str:
        """The key in the database."""
        return self.name.replace("-", "_")
