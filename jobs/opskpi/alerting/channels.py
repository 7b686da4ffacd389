"""Sends one delivery over its channel and says what became of it; no secret gets into a reason or a log."""

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from opskpi.alerting import messages
from opskpi.alerting.outcomes import Delivery, Misconfigured, Outcome, Refused, Retry, Sent, Timeouts, secret
from opskpi.alerting.over_http import send_slack, send_webhook
from opskpi.alerting.over_smtp import send_email

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


def send_apprise(delivery: Delivery, environ: Mapping[str, str], _timeouts: Timeouts) -> Outcome:
    """Send through the library apprise, which keeps its own time limits (its URL parameters `cto` and `rto`)."""
    address = secret(environ, delivery.secret_env)
    try:
        import apprise  # noqa: PLC0415 - an extra that few install, and slow to import
    except ImportError:
        return Refused("the library apprise is missing; install opskpi[alerts]")
    target = apprise.Apprise()
    if not target.add(address):
        raise Misconfigured(f"environment variable {delivery.secret_env} holds no URL that apprise knows")
    firing, resolved = messages.sections(delivery.message)
    kind = apprise.NotifyType.WARNING if firing else apprise.NotifyType.INFO
    accepted = target.notify(
        title=messages.title(delivery.message),
        body=messages.text(delivery.message).partition("\n")[2].strip() or "no alerts",
        notify_type=apprise.NotifyType.SUCCESS if resolved and not firing else kind,
        body_format=apprise.NotifyFormat.TEXT,
    )
    return Sent() if accepted else Retry(None, "apprise could not deliver it")


@contextmanager
def _silent_logs() -> Iterator[None]:
    """Nothing is logged meanwhile: httpx, urllib3 and apprise write addresses into their logs, tokens included."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
