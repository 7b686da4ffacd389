"""E-mail over SMTP: with TLS unless the address says otherwise, and never a password without it."""

import smtplib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from urllib.parse import parse_qs, unquote, urlsplit

from opskpi import texts
from opskpi.alerting import messages
from opskpi.alerting.channels.settings import Setting
from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry, Sent
from opskpi.outbound.limits import Timeouts
from opskpi.outbound.reasons import network_reason
from opskpi.outbound.secrets import Misconfigured, scrub, secret
from opskpi.outbound.tls import trusted

ADDRESS = "smtp://user:password@host:587, or smtps://…"
SETTINGS = (
    Setting(
        "to", "addresses", "addresses", missing="mail needs the annotation opskpi.dev/to, addresses separated by commas"
    ),
    Setting("from", "address", "address"),
)
# Too many connections or mails, so that the server closes the session; a mail beyond the size that it allows.
CLOSING = 421
TOO_LARGE = 552
Replies = Mapping[str, tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Where mail is handed in, as `smtp://user:password@host:587` says; `smtps` speaks TLS from the start."""

    scheme: str
    host: str
    port: int
    starttls: bool
    user: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no reason may quote, as SMTP sends it."""
        return (self.user, self.password, f"\0{self.user}\0{self.password}")


def send(delivery: Delivery, environ: Mapping[str, str], timeouts: Timeouts) -> Outcome:
    """Hand the message in for the addresses of the setting `to`; sent when the server takes it for at least one."""
    mailbox = _mailbox(secret(environ, delivery.secret_env), str(delivery.secret_env))
    wanted = delivery.setting("to")
    listed = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    try:
        recipients = [_address(value) for value in listed]
        sender = _address(delivery.setting("from") or mailbox.user)
    except (ValueError, MessageError):
        return Refused("a setting of the channel, `from` or `to`, is no e-mail address")
    if not recipients:
        return Refused("the channel has no setting `to` with at least one e-mail address")
    mail = compose(delivery, sender, recipients)
    try:
        server = _logged_in(mailbox, environ, timeouts)
    except (smtplib.SMTPException, OSError) as error:
        return _before_the_mail(error, mailbox)
    except UnicodeError:
        raise Misconfigured(f"environment variable {delivery.secret_env} holds an impossible host") from None
    try:
        return _hand_in(server, mail, sender, recipients, mailbox)
    except (smtplib.SMTPException, OSError) as error:
        return _about_the_mail(error, mailbox)
    finally:
        server.close()


def compose(delivery: Delivery, sender: Address, recipients: Iterable[Address]) -> EmailMessage:
    """The mail; the same for every attempt, so that a mailbox recognises what it has already."""
    mail = EmailMessage()
    mail["Subject"] = messages.title(delivery.message)
    mail["From"] = sender
    mail["To"] = tuple(recipients)
    mail["Date"] = format_datetime(delivery.created_at)
    mail["Message-ID"] = f"<{delivery.stable_id}@{sender.domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(messages.text(delivery.message))
    return mail


def _logged_in(mailbox: Mailbox, environ: Mapping[str, str], timeouts: Timeouts) -> smtplib.SMTP:
    """A session that is ready for a mail."""
    server = _connected(mailbox, environ, timeouts)
    try:
        server.ehlo_or_helo_if_needed()
        if mailbox.user:
            server.login(mailbox.user, mailbox.password)
    except smtplib.SMTPNotSupportedError:
        server.close()
        raise Misconfigured("the server takes no login here") from None
    except BaseException:
        server.close()
        raise
    return server


def _hand_in(
    server: smtplib.SMTP, mail: EmailMessage, sender: Address, recipients: list[Address], mailbox: Mailbox
) -> Outcome:
    refused = server.send_message(mail, sender.addr_spec, [recipient.addr_spec for recipient in recipients])
    # The server has taken the mail: whatever fails from here on must not send it again.
    with suppress(smtplib.SMTPException, OSError):
        server.quit()
    return Sent(f"not accepted for {_replies(refused, mailbox)}" if refused else None)


def _connected(mailbox: Mailbox, environ: Mapping[str, str], timeouts: Timeouts) -> smtplib.SMTP:
    if mailbox.scheme == "smtps":
        server = smtplib.SMTP_SSL(mailbox.host, mailbox.port, timeout=timeouts.total, context=trusted(environ))
    else:
        server = smtplib.SMTP(mailbox.host, mailbox.port, timeout=timeouts.total)
    try:
        if mailbox.starttls:
            server.starttls(context=trusted(environ))
    except smtplib.SMTPNotSupportedError:
        server.close()
        raise Misconfigured(
            "the server offers no STARTTLS; use smtps://, or ?starttls=no where TLS is not needed"
        ) from None
    except BaseException:
        server.close()
        raise
    return server


def _mailbox(value: str, variable: str) -> Mailbox:
    malformed = f"environment variable {variable} holds no address such as smtp://user:password@host:587"
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise Misconfigured(malformed) from None
    if url.scheme not in {"smtp", "smtps"} or not url.hostname:
        raise Misconfigured(f"{malformed}; percent-encode / ? # and @ in the password")
    starttls = url.scheme == "smtp" and parse_qs(url.query).get("starttls") != ["no"]
    if url.password and url.scheme == "smtp" and not starttls:
        raise Misconfigured("a password is not sent without TLS; remove starttls=no, or the password")
    user, password = unquote(url.username or ""), unquote(url.password or "")
    if not (user + password).isascii():
        raise Misconfigured(f"environment variable {variable} holds a user or a password with letters beyond ASCII")
    return Mailbox(
        scheme=url.scheme,
        host=url.hostname,
        port=port or (465 if url.scheme == "smtps" else 587),
        starttls=starttls,
        user=user,
        password=password,
    )


def _address(value: object) -> Address:
    """An address such as `Ops <ops@example.com>`. Raises ValueError or MessageError when it is none."""
    name, address = parseaddr(texts.line(value, 320) or "")
    if " " in address or not all(address.rpartition("@")[::2]):
        raise ValueError
    return Address(display_name=name, addr_spec=address)


def _before_the_mail(error: smtplib.SMTPException | OSError, mailbox: Mailbox) -> Retry:
    """The meaning of a session that did not come about: no mail was spoken of, so the channel takes nothing now."""
    if not isinstance(error, smtplib.SMTPException):
        return Retry(None, network_reason(error), "channel")
    reason = _reason(error, mailbox)
    if not isinstance(error, smtplib.SMTPResponseException):
        return Retry(None, reason, "channel")
    # A password that no longer holds is mended in the environment, as one that is not set.
    is_login = isinstance(error, smtplib.SMTPAuthenticationError)
    busy = error.smtp_code == CLOSING or (400 <= error.smtp_code < 500 and not is_login)
    return Retry(None, reason, "throttled" if busy else "channel")


def _about_the_mail(error: smtplib.SMTPException | OSError, mailbox: Mailbox) -> Outcome:
    """The meaning of the end of a session in which the mail was spoken of.

    Sender and recipients are the channel's: a temporary refusal of them is its pace, as limits of providers are told.
    """
    if not isinstance(error, smtplib.SMTPException):
        return Retry(None, network_reason(error))
    reason = _reason(error, mailbox)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        temporary = any(code < 500 for code, _ in error.recipients.values())
        return Retry(None, reason, "throttled") if temporary else Refused(reason)
    if isinstance(error, smtplib.SMTPResponseException):
        if error.smtp_code == CLOSING:
            return Retry(None, reason, "throttled")
        if isinstance(error, smtplib.SMTPSenderRefused) and error.smtp_code != TOO_LARGE:
            return Retry(None, reason, "throttled" if error.smtp_code < 500 else "channel")
        return Refused(reason) if 500 <= error.smtp_code < 600 else Retry(None, reason)
    return Refused(reason) if isinstance(error, smtplib.SMTPNotSupportedError) else Retry(None, reason)


def _reason(error: smtplib.SMTPException, mailbox: Mailbox) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"not accepted for {_replies(error.recipients, mailbox)}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"answered {_reply(error.smtp_code, error.smtp_error, mailbox)}"
    if isinstance(error, smtplib.SMTPServerDisconnected):
        # A timeout is told apart only by what it was raised from.
        return (
            "no answer in time" if isinstance(error.__context__, TimeoutError) else "the server closed the connection"
        )
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "the server takes no addresses with letters beyond ASCII"
    return f"the mail was not sent: {type(error).__name__}"


def _replies(refused: Replies, mailbox: Mailbox) -> str:
    return "; ".join(f"{address}: {_reply(code, text, mailbox)}" for address, (code, text) in list(refused.items())[:3])


def _reply(code: int, text: bytes | str, mailbox: Mailbox) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {scrub(words, mailbox.secrets)}"
