"""Everything else, through the library apprise."""

from collections.abc import Mapping

from opskpi.alerting import messages
from opskpi.alerting.channels.settings import Setting
from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry, Sent
from opskpi.outbound.limits import Timeouts
from opskpi.outbound.secrets import Misconfigured, secret

ADDRESS = "URL that apprise knows"
SETTINGS: tuple[Setting, ...] = ()


def send(delivery: Delivery, environ: Mapping[str, str], _timeouts: Timeouts) -> Outcome:
    """Send through the library apprise, which keeps its own time limits (its URL parameters `cto` and `rto`)."""
    address = secret(environ, delivery.secret_env)
    try:
        import apprise  # noqa: PLC0415 - an extra that few install, and slow to import
    except ImportError:
        return Refused("the library apprise is missing; install opskpi[alerts]")
    target = apprise.Apprise()
    if not target.add(address):
        raise Misconfigured(f"environment variable {delivery.secret_env} holds no URL that apprise knows")
    firing, _ = messages.sections(delivery.message)
    kind = apprise.NotifyType.WARNING if firing else apprise.NotifyType.INFO
    accepted = target.notify(
        title=messages.title(delivery.message),
        body=messages.text(delivery.message).partition("\n")[2].strip() or "no alerts",
        notify_type=apprise.NotifyType.SUCCESS if messages.is_resolved(delivery.message) else kind,
        body_format=apprise.NotifyFormat.TEXT,
    )
    return Sent() if accepted else Retry(None, "apprise could not deliver it")
