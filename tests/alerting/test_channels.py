"""Sending over each channel: real servers on this machine, and no secret in any reason or log."""

import base64
import hashlib
import hmac
import json
import logging
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from opskpi.alerting import messages
from opskpi.alerting.channels.registry import send
from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry, Sent
from opskpi.outbound.limits import Timeouts, retry_after
from support.postgres import free_port
from support.receivers import TOKEN, http_target, smtp_server

CREATED_AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
PASSWORD = "pa55/w@rd"  # noqa: S105
SIGNING_KEY = b"0123456789abcdef0123456789abcdef"
# Long enough for a busy machine.
PATIENT = Timeouts(connect=60, total=60)
HASTY = Timeouts(connect=1, total=1)
MESSAGE: dict[str, Any] = {
    "title": "checkout",
    "group": "checkout",
    "kind": "alerts",
    "status": "firing",
    "firing": [{"subject": "checkout", "severity": "page"}],
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert TOKEN not in caplog.text
    assert PASSWORD not in caplog.text


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Return an environment that trusts the certificates of the local servers."""
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return {"SSL_CERT_FILE": str(file)}


def delivery(kind: str, /, **changed: Any) -> Delivery:
    standing = Delivery(
        delivery_id=42,
        attempt=1,
        org_id=UUID(int=0),
        channel_name="ops",
        channel_kind=kind,
        secret_env="OPS_SECRET",
        settings={"to": ["ops@example.com"], "from": "Alerts <alerts@example.com>"} if kind == "email" else None,
        group_key="checkout",
        created_at=CREATED_AT,
        message=MESSAGE,
    )
    return replace(standing, **changed)


def send_to(
    address: str, kind: str, environ: dict[str, str] | None = None, timeouts: Timeouts = PATIENT, /, **changed: Any
) -> Outcome:
    outcome = send(delivery(kind, **changed), {"OPS_SECRET": address} | (environ or {}), timeouts=timeouts)
    assert TOKEN not in repr(outcome)
    assert PASSWORD not in repr(outcome)
    return outcome


# HTTP


def test_slack_gets_text_and_blocks(http):
    assert send_to(http.url, "slack") == Sent()
    [(headers, body)] = http.requests
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["text"] == "[FIRING:1] checkout"
    assert len(json.loads(body)["blocks"]) == 2


def test_a_webhook_gets_the_message_with_the_id_of_the_delivery_unsigned_without_a_signing_secret(http):
    assert send_to(http.url, "webhook") == Sent()
    [(headers, body)] = http.requests
    assert json.loads(body) == MESSAGE | {"delivery_id": 42}
    assert "webhook-signature" not in headers


@pytest.mark.parametrize("stored", ["whsec_" + base64.b64encode(SIGNING_KEY).decode(), SIGNING_KEY.decode()])
def test_a_receiver_can_verify_the_signature_of_a_webhook(http, stored):
    assert send_to(http.url, "webhook", {"KEY": stored}, settings={"signing_env": "KEY"}) == Sent()
    [(headers, body)] = http.requests
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SIGNING_KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_a_webhook_keeps_its_id_over_retries_and_another_delivery_has_another(http):
    for changed in ({}, {"attempt": 2}, {"delivery_id": 43}, {"created_at": CREATED_AT + timedelta(seconds=1)}):
        send_to(http.url, "webhook", **changed)
    ids = [headers["webhook-id"] for headers, _ in http.requests]
    assert ids[0] == ids[1] == "opskpi-42-20261121T100000000000"
    assert len(set(ids)) == 3


def test_a_webhook_whose_signing_secret_is_missing_or_broken_waits_unsent(http):
    wanted = {"signing_env": "KEY"}
    unset = send_to(http.url, "webhook", settings=wanted)
    broken = send_to(http.url, "webhook", {"KEY": "whsec_!"}, settings=wanted)
    assert unset == Retry(None, "environment variable KEY is not set", "channel")
    assert broken == Retry(None, "the signing secret is not base64 after whsec_", "channel")
    assert http.requests == []


@pytest.mark.parametrize("weak", ["whsec_", "whsec_" + base64.b64encode(b"short").decode(), "short", "a" * 64])
def test_a_webhook_whose_signing_secret_can_be_guessed_waits_unsent(http, weak):
    outcome = send_to(http.url, "webhook", {"KEY": weak}, settings={"signing_env": "KEY"})
    assert isinstance(outcome, Retry)
    assert outcome.scope == "channel"
    assert outcome.reason.startswith("environment variable KEY holds a secret of ")
    assert outcome.reason.endswith("; make one: echo whsec_$(openssl rand -base64 32)")
    assert http.requests == []


@pytest.mark.parametrize("status", [200, 201, 204])
def test_any_2xx_is_delivered(http, status):
    http.status = status
    assert send_to(http.url, "webhook") == Sent()


@pytest.mark.parametrize(
    ("header", "after"),
    [
        ("120", timedelta(seconds=120)),
        ("Sat, 21 Nov 2026 10:05:00 GMT", timedelta(minutes=5)),
        ("soon", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_given_the_time_it_asks_for(http, monkeypatch, status, header, after):
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda _: format_datetime(CREATED_AT, usegmt=True))
    http.status, http.headers = status, {"Retry-After": header} if header else {}
    outcome = send_to(http.url, "slack")
    assert isinstance(outcome, Retry)
    assert (outcome.after, outcome.scope) == (after, "throttled" if status == 429 or after else "unclear")
    assert outcome.reason.startswith(f"answered {status} ")


@pytest.mark.parametrize(
    ("header", "after"),
    [
        ("0", timedelta()),
        ("Sat, 21 Nov 2026 09:00:00 GMT", timedelta()),
        ("99999999999999999999", timedelta(days=1)),
        ("Sat, 21 Nov 2099 09:00:00 GMT", timedelta(days=1)),
        ("Sat, 21 Nov 2026 10:01:00 -0000", timedelta(minutes=1)),
        ("-5", None),
        ("\u0662", None),
        ("Sat, 99 Nov 2026 10:01:00 GMT", None),
        ("", None),
    ],
)
def test_a_strange_retry_after_neither_fails_nor_silences_the_channel(header, after):
    assert retry_after(header, CREATED_AT) == after


@pytest.mark.parametrize("status", [408, 425, 500, 502, 504, 599])
def test_a_failing_server_is_tried_again(http, status):
    http.status = status
    outcome = send_to(http.url, "webhook")
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith(f"answered {status}")
    assert outcome.scope == "unclear"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "answered 400 Bad Request"), (413, "answered 413"), (422, "answered 422")],
)
def test_a_server_that_does_not_want_the_message_is_not_asked_again(http, status, reason):
    http.status = status
    outcome = send_to(http.url, "slack")
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith(reason)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 410])
def test_a_server_that_does_not_know_the_secret_takes_nothing_from_the_channel(http, status):
    http.status = status
    outcome = send_to(http.url, "slack")
    assert isinstance(outcome, Retry)
    assert (outcome.after, outcome.scope) == (None, "channel")
    assert outcome.reason.startswith(f"answered {status} ")


def test_a_redirect_is_not_followed(http):
    with http_target() as elsewhere:
        http.status, http.headers = 307, {"Location": elsewhere.url}
        assert send_to(http.url, "webhook") == Retry(
            None, "answered 307 Temporary Redirect; redirects are not followed", "channel"
        )
        assert elsewhere.requests == []


def test_a_server_that_does_not_answer_in_time_is_tried_again(http):
    http.answering.clear()
    hasty = Timeouts(connect=3, total=3)
    assert send_to(http.url, "webhook", {}, hasty) == Retry(None, "no answer in time")
    assert len(http.requests) == 1


def test_a_server_that_trickles_its_answer_does_not_hold_up_the_others():
    gone = threading.Event()

    def trickle() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.send(b"HTTP/1.1 200 OK\r\n")
            while not gone.wait(timeout=0.02):
                connection.send(b"x: x\r\n")

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=trickle)
        thread.start()
        outcome = send_to(f"http://127.0.0.1:{server.getsockname()[1]}/{TOKEN}", "webhook", {}, HASTY)
        gone.set()
        thread.join()
    assert outcome == Retry(None, "no answer in time")


def test_a_refused_connection_is_tried_again():
    address = f"http://127.0.0.1:{free_port()}/services/{TOKEN}"
    assert send_to(address, "webhook") == Retry(None, "no connection: Connection refused", "channel")


def test_a_certificate_that_nobody_trusts_is_a_reason_to_wait(server_tls, trusting):
    with http_target(server_tls) as target:
        outcome = send_to(target.url, "webhook")
        assert isinstance(outcome, Retry)
        assert outcome.reason.startswith("its certificate is not trusted: ")
        assert target.requests == []
        assert send_to(target.url, "webhook", trusting) == Sent()


@pytest.mark.parametrize(
    "address",
    [TOKEN, f"ftp://x/{TOKEN}", f"https:///{TOKEN}", f"https://[{TOKEN}", f"http://x:{TOKEN}/", f"https://\x00{TOKEN}"],
)
@pytest.mark.parametrize("kind", ["slack", "webhook"])
def test_an_address_that_is_no_url_waits_for_the_operator(kind, address):
    assert send_to(address, kind) == Retry(
        None, "environment variable OPS_SECRET holds no http or https URL", "channel"
    )


@pytest.mark.parametrize("kind", ["slack", "email", "webhook", "apprise"])
@pytest.mark.parametrize("environ", [{}, {"OPS_SECRET": ""}, {"OPS_SECRET": "  "}])
def test_a_secret_that_is_not_set_waits_for_the_operator(kind, environ):
    assert send(delivery(kind), environ) == Retry(None, "environment variable OPS_SECRET is not set", "channel")


def test_a_channel_that_names_no_secret_waits_for_the_operator():
    assert send(delivery("slack", secret_env=None), {}) == Retry(
        None, "the channel names no environment variable that holds its secret", "channel"
    )


def test_an_unknown_kind_of_channel_is_refused():
    assert send_to("http://127.0.0.1", "pigeon") == Refused(
        "this version of opskpi does not know the kind of this channel"
    )


def test_an_error_nobody_foresaw_is_a_retry_that_says_where_but_quotes_nothing(http, monkeypatch):
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError(TOKEN)

    monkeypatch.setattr(messages, "webhook_body", fail)
    outcome = send_to(http.url, "webhook")
    assert isinstance(outcome, Retry)
    assert re.fullmatch(r"unexpected ZeroDivisionError at test_channels.py:\d+", outcome.reason)


# E-mail


def test_a_mail_goes_out_over_starttls_with_a_login(server_tls, trusting):
    logins = []

    def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
        logins.append((given.login, given.password))
        return AuthResult(success=True)

    with smtp_server(tls=server_tls, login=login) as inbox:
        address = f"smtp://ops:pa55%2Fw%40rd@127.0.0.1:{inbox.port}"
        assert send_to(address, "email", trusting) == Sent()
    assert logins == [(b"ops", PASSWORD.encode())]
    [mail] = inbox.mails
    assert mail["Subject"] == "[FIRING:1] checkout"
    assert mail["From"] == "Alerts <alerts@example.com>"
    assert mail["To"] == "ops@example.com"
    assert mail["Message-ID"] == "<opskpi-42-20261121T100000000000@example.com>"
    assert mail["Date"].datetime == CREATED_AT
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().replace("\r\n", "\n") == messages.text(MESSAGE)


def test_a_mail_goes_out_without_tls_where_the_operator_says_so():
    with smtp_server() as inbox:
        assert send_to(f"smtp://127.0.0.1:{inbox.port}?starttls=no", "email") == Sent()
    assert len(inbox.mails) == 1


def test_a_mail_is_not_handed_to_a_server_without_tls_unasked():
    with smtp_server() as inbox:
        outcome = send_to(f"smtp://127.0.0.1:{inbox.port}", "email")
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("the server offers no STARTTLS")
    assert inbox.mails == []


def test_a_mail_is_not_handed_to_a_server_whose_certificate_nobody_trusts(server_tls):
    with smtp_server(tls=server_tls) as inbox:
        outcome = send_to(f"smtp://127.0.0.1:{inbox.port}", "email")
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("its certificate is not trusted: ")
    assert inbox.mails == []


def test_a_password_never_travels_without_tls():
    with smtp_server() as inbox:
        outcome = send_to(f"smtp://ops:{TOKEN}@127.0.0.1:{inbox.port}?starttls=no", "email")
    assert outcome == Retry(None, "a password is not sent without TLS; remove starttls=no, or the password", "channel")
    assert inbox.mails == []


def test_a_wrong_password_waits_for_the_operator_and_is_not_quoted(server_tls, trusting):
    def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
        plain = base64.b64encode(f"\0ops\0{PASSWORD}".encode()).decode()
        return AuthResult(success=False, handled=False, message=f"535 no {PASSWORD} of ops, {plain}")

    with smtp_server(tls=server_tls, login=login) as inbox:
        outcome = send_to(f"smtp://ops:pa55%2Fw%40rd@127.0.0.1:{inbox.port}", "email", trusting)
    assert outcome == Retry(None, "answered 535 no *** of ***, ***", "channel")


def test_a_mail_that_nobody_may_receive_is_refused():
    with smtp_server() as inbox:
        inbox.replies["ops@example.com"] = "550 5.1.1 no such user"
        outcome = send_to(f"smtp://127.0.0.1:{inbox.port}?starttls=no", "email")
    assert outcome == Refused("not accepted for ops@example.com: 550 5.1.1 no such user")


def test_a_mail_that_is_greylisted_is_tried_again():
    with smtp_server() as inbox:
        inbox.replies["ops@example.com"] = "451 4.7.1 come back later"
        outcome = send_to(f"smtp://127.0.0.1:{inbox.port}?starttls=no", "email")
    assert outcome == Retry(None, "not accepted for ops@example.com: 451 4.7.1 come back later", "throttled")


def test_a_mail_that_one_of_two_receives_is_delivered_and_the_other_named():
    with smtp_server() as inbox:
        inbox.replies["gone@example.com"] = "550 no such user"
        both = {"to": ["gone@example.com", "Ops <ops@example.com>"], "from": "alerts@example.com"}
        outcome = send_to(f"smtp://127.0.0.1:{inbox.port}?starttls=no", "email", settings=both)
    assert outcome == Sent("not accepted for gone@example.com: 550 no such user")
    assert inbox.recipients == [["ops@example.com"]]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("554 5.6.0 spam", Refused("answered 554 5.6.0 spam")),
        ("452 4.3.1 disk full", Retry(None, "answered 452 4.3.1 disk full")),
    ],
)
def test_a_refusal_of_the_content_is_final_with_5xx_and_temporary_with_4xx(reply, outcome):
    with smtp_server() as inbox:
        inbox.replies["DATA"] = reply
        assert send_to(f"smtp://127.0.0.1:{inbox.port}?starttls=no", "email") == outcome


@pytest.mark.parametrize(
    ("step", "reply", "outcome"),
    [
        ("MAIL", "450 4.7.1 too much mail", Retry(None, "answered 450 4.7.1 too much mail", "throttled")),
        ("MAIL", "421 4.3.2 too many", Retry(None, "answered 421 4.3.2 too many", "throttled")),
        ("MAIL", "550 5.7.1 not your address", Retry(None, "answered 550 5.7.1 not your address", "channel")),
        ("MAIL", "530 5.7.0 log in first", Retry(None, "answered 530 5.7.0 log in first", "channel")),
        ("MAIL", "552 5.3.4 too large", Refused("answered 552 5.3.4 too large")),
        ("DATA", "421 4.7.0 slow down", Retry(None, "answered 421 4.7.0 slow down", "throttled")),
    ],
)
def test_a_refusal_of_the_sender_concerns_the_whole_channel_and_of_the_size_the_mail(step, reply, outcome):
    async def answer(*_: object) -> str:
        return reply

    with smtp_server() as inbox:
        if step == "DATA":
            inbox.replies["DATA"] = reply
        else:
            vars(inbox)[f"handle_{step}"] = answer
        assert send_to(f"smtp://127.0.0.1:{inbox.port}?starttls=no", "email") == outcome


@pytest.mark.parametrize(
    ("greeting", "scope"), [(b"421 too many connections\r\n", "throttled"), (b"554 no service\r\n", "channel")]
)
def test_a_mail_server_that_greets_with_a_refusal_takes_no_mail_of_the_channel(greeting, scope):
    def greet() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(greeting)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=greet)
        thread.start()
        outcome = send_to(f"smtp://127.0.0.1:{server.getsockname()[1]}?starttls=no", "email")
        thread.join()
    assert isinstance(outcome, Retry)
    assert outcome.scope == scope


def test_a_mail_server_that_trickles_its_greeting_does_not_hold_up_the_others():
    gone = threading.Event()

    def trickle() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            while not gone.wait(timeout=0.02):
                connection.send(b"220-still here\r\n")

    hasty = Timeouts(connect=1, total=1, sending=1)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=trickle)
        thread.start()
        outcome = send_to(f"smtp://127.0.0.1:{server.getsockname()[1]}?starttls=no", "email", {}, hasty)
        gone.set()
        thread.join()
    assert outcome == Retry(None, "no answer in time")


def test_a_password_that_smtp_cannot_send_waits_for_the_operator():
    assert send_to("smtp://ops:w%C3%B6rd@127.0.0.1", "email") == Retry(
        None, "environment variable OPS_SECRET holds a user or a password with letters beyond ASCII", "channel"
    )


def test_a_mail_server_that_is_down_is_tried_again():
    outcome = send_to(f"smtp://127.0.0.1:{free_port()}", "email")
    assert outcome == Retry(None, "no connection: Connection refused", "channel")


def test_a_mail_server_that_says_nothing_is_tried_again():
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        outcome = send_to(f"smtp://127.0.0.1:{silent.getsockname()[1]}", "email", {}, HASTY)
    assert outcome == Retry(None, "no answer in time", "channel")


def test_a_mail_keeps_its_message_id_over_retries():
    with smtp_server() as inbox:
        for attempt in (1, 2):
            send_to(f"smtp://127.0.0.1:{inbox.port}?starttls=no", "email", attempt=attempt)
    first, second = inbox.mails
    assert first["Message-ID"] == second["Message-ID"]


def test_names_cannot_add_headers_or_recipients_to_a_mail():
    evil = "x\r\nBcc: victim@example.com\r\n\r\nbody\x00"
    settings = {"to": ["ops@example.com"], "from": "a\nBcc: victim@example.com <alerts@example.com>"}
    alert = {"subject": evil, "description": evil, "severity": evil}
    with smtp_server() as inbox:
        address = f"smtp://127.0.0.1:{inbox.port}?starttls=no"
        send_to(address, "email", settings=settings, message={"title": evil, "group": evil, "firing": [alert]})
    assert all("Bcc" not in mail for mail in inbox.mails)
    assert all(recipients == ["ops@example.com"] for recipients in inbox.recipients)
    assert [mail["Subject"] for mail in inbox.mails] == ["[FIRING:1] x Bcc: victim@example.com body"]


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"to": []},
        {"to": "nobody", "from": "alerts@example.com"},
        {"to": ["a b@example.com"], "from": "alerts@example.com"},
        {"to": ["ops@example.com"]},
        {"to": ["ops@example.com"], "from": 7},
        {"to": [None], "from": "alerts@example.com"},
        {"to": {"a": 1}, "from": "alerts@example.com"},
    ],
)
def test_a_mail_channel_without_usable_addresses_is_refused(settings):
    assert isinstance(send_to("smtp://127.0.0.1:1", "email", settings=settings), Refused)


@pytest.mark.parametrize(
    "address",
    [
        TOKEN,
        f"smtp://:{TOKEN}@",
        f"smtp://x:{TOKEN}",
        f"https://{TOKEN}",
        f"smtp://ops:a/{TOKEN}@h:587",
        f"smtp://{TOKEN * 9}..x/",
    ],
)
def test_a_mail_address_that_cannot_be_read_waits_for_the_operator(address):
    outcome = send_to(address, "email")
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("environment variable OPS_SECRET holds ")


# apprise, whose own imports warn on some versions of Python

ignores_imports = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@ignores_imports
def test_apprise_sends_what_it_has_an_address_for(http):
    assert send_to(http.url.replace("http://", "json://"), "apprise") == Sent()
    [(_, body)] = http.requests
    sent = json.loads(body)
    assert (sent["title"], sent["type"]) == ("[FIRING:1] checkout", "warning")
    assert sent["message"].startswith("PAGE: checkout")


@ignores_imports
def test_a_service_that_apprise_cannot_reach_is_tried_again():
    outcome = send_to(f"json://127.0.0.1:{free_port()}/{TOKEN}", "apprise")
    assert outcome == Retry(None, "apprise could not deliver it")


@ignores_imports
def test_an_address_that_apprise_does_not_know_waits_for_the_operator():
    outcome = send_to(f"nosuch://{TOKEN}", "apprise")
    assert outcome == Retry(None, "environment variable OPS_SECRET holds no URL that apprise knows", "channel")


def test_without_the_library_apprise_the_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    assert send_to(f"json://127.0.0.1/{TOKEN}", "apprise") == Refused(
        "the library apprise is missing; install opskpi[alerts]"
    )
