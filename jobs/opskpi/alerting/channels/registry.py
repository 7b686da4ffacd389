"""Sends one delivery over its channel and says what became of it; no secret gets into a reason or a log."""

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from opskpi.alerting.channels.apprise import send_apprise
from opskpi.alerting.channels.email import send_email
from opskpi.alerting.channels.slack import send_slack
from opskpi.alerting.channels.webhook import send_webhook
from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry
from opskpi.outbound.requests import Timeouts
from opskpi.outbound.secrets import Misconfigured

Send = Callable[[Delivery, Mapping[str, str], Timeouts], Outcome]


def send(delivery: Delivery, environ: Mapping[str, str], *, timeouts: Timeouts = Timeouts()) -> Outcome:  # noqa: B008
    """Send one delivery, with the secrets of `environ`.

    Gives Sent, Retry (later, `after` at the earliest) or Refused (never as it is); raises nothing but what ends the
    process. What is missing or wrong in the environment is worth a retry, since the operator can mend it.
    """
    kinds: dict[str, Send] = {
        "slack": send_slack,
        "email": send_email,
        "webhook": send_webhook,
        "apprise": send_apprise,
    }
    chosen = kinds.get(delivery.channel_kind)
    if chosen is None:
        return Refused("this version of opskpi does not know the kind of this channel")
    try:
        with _silent_logs():
            return chosen(delivery, environ, timeouts)
    except Misconfigured as error:
        return Retry(None, str(error), channel_wide=True)
    except Exception as error:  # noqa: BLE001 - one delivery must not stop the others
        # The text of an unknown error may quote a secret; its place does not.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Retry(None, f"unexpected {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}")


@contextmanager
def _silent_logs() -> Iterator[None]:
    """Nothing is logged meanwhile: httpx, urllib3 and apprise write addresses into their logs, tokens included."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
