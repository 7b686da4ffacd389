"""The dashboard over plain HTTP: the login, whose data is shown, forms, links, and what happens when something is wrong."""

import base64
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from psycopg.rows import scalar_row

from opskpi.access import keys
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hub.sessions import Tokens
from support.hubs import Hub, hook_event, make_key, post, running_hub
from support.patience import eventually
from support.postgres import Database

SECRET = "a secret of thirty-two characters"  # noqa: S105
TOKEN_ENV = {"SUPABASE_JWT_SECRET": SECRET}
PAGES = ("/", "/hooks", "/supply-chain", "/slo", "/alerts")


@pytest.fixture
def visitor(hub: Hub) -> Iterator[httpx.Client]:
    """Keep cookies as a browser does, and follow no redirect by itself."""
    with hub.client() as client:
        yield client


def log_in(browser: httpx.Client, shown: str, where_to: str = "/") -> httpx.Response:
    return browser.post("/login", data={"key": shown, "next": where_to})


def token_of(page: httpx.Response) -> str:
    """The token that a page gives its forms."""
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]


def supabase_token(**claims: Any) -> str:
    """A token as Supabase signs it."""
    said = {"sub": str(uuid4()), "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 600}
    secret = claims.pop("secret", SECRET)
    return jwt.encode(said | claims, secret, algorithm="HS256")


def revoke(database: psycopg.Connection, key: str) -> None:
    found = keys.parse(key)
    assert found is not None
    assert keys.revoke(database, found.key_id)


@pytest.mark.parametrize("path", PAGES)
def test_without_a_login_a_page_leads_to_it_and_back(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID, path: str
) -> None:
    asked = visitor.get(path, params={"range": "30d"})
    assert asked.status_code == 303
    form = visitor.get(asked.headers["location"])
    assert form.status_code == 200
    where_to = re.search(r'name="next" value="([^"]+)"', form.text)
    assert where_to is not None
    logged_in = log_in(visitor, make_key(hub_database, org, "read"), where_to[1])
    assert (logged_in.status_code, logged_in.headers["location"]) == (303, f"{path}?range=30d")
    page = visitor.get(logged_in.headers["location"])
    assert page.status_code == 200
    assert "<h1>" in page.text


def test_the_cookie_is_signed_and_out_of_reach_of_scripts_and_other_sites(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    key = make_key(hub_database, org, "read")
    answer = log_in(visitor, key)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    assert key.split("_", 2)[2] not in cookie
    value = visitor.cookies["opskpi_session"]
    assert visitor.get("/").status_code == 200
    for forged in (value[:-9] + ("A" if value[-9] != "A" else "B") + value[-8:], "x" + value, ""):
        assert visitor.get("/", headers={"Cookie": f"opskpi_session={forged}"}).status_code in {200, 303}
        with httpx.Client(base_url=str(visitor.base_url), cookies={"opskpi_session": forged}) as other:
            assert other.get("/").status_code == 303
    behind_tls = visitor.post(
        "/login", data={"key": key}, headers={"Origin": "https://kpi.example", "Host": "kpi.example"}
    )
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_what_is_no_key_with_the_scope_read_is_refused_without_a_hint_at_what_is_wrong(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    wrong = ["", "nonsense", "opskpi_0123456789ab_" + "x" * 43, "a.b.c", "\u00e9" * 50, "x" * 9000]
    wrong += [make_key(hub_database, org, scope) for scope in ("ingest", "admin")]
    with running_hub(hub.dsn, folder) as own, own.client() as browser:
        for shown in wrong:
            answer = log_in(browser, shown)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
            assert "unknown, revoked, expired or lacks the scope read" in answer.text


def test_a_revoked_key_ends_its_sessions_with_the_next_page(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    key = make_key(hub_database, org, "read")
    log_in(visitor, key)
    assert visitor.get("/").status_code == 200
    revoke(hub_database, key)
    assert visitor.get("/").status_code == 303


def test_many_failed_logins_have_to_wait_and_keep_nobody_else_out(
    migrated_database: Database, database: psycopg.Connection, folder: Path
) -> None:
    key = make_key(database, uuid4(), "read")
    with running_hub(migrated_database.dsn, folder) as own, own.client() as client:
        answers = [log_in(client, "wrong") for _ in range(11)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 300
        # Behind a proxy everybody has one address.
        assert log_in(client, key).status_code == 303


def test_an_origin_or_a_token_that_is_none_is_refused(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    key = make_key(hub_database, org, "read")
    assert visitor.post("/login", data={"key": key}, headers={"Origin": "http://["}).status_code == 403
    log_in(visitor, key)
    assert visitor.post("/logout", data={"token": "\u00e9"}).status_code == 403


def test_a_name_with_odd_characters_is_found_by_its_filter(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with hub.client(make_key(hub_database, org)) as client:
        for name in ("deploy \U0001f469\u200d\U0001f4bb", " lead", "no\u00a0break"):
            post(client, [hook_event(org, hook_type=name)])
            log_in(client, make_key(hub_database, org, "read"))
            page = client.get("/hooks", params={"range": "24h", "hook_type": name})
            assert page.status_code == 200
            assert "n = 1 " in page.text


def test_an_audit_of_no_calendar_keeps_no_page_from_being_shown(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    hub_database.execute(
        "insert into slsa_audit_metrics (audit_run_id, audit_timestamp, provenance_status, validation_status, org_id)"
        " values (%s, 'infinity', 'failure', 'failure', %s)",
        [uuid4().int % 10**15, org],
    )
    with hub.client() as browser:
        log_in(browser, make_key(hub_database, org, "read"))
        assert browser.get("/supply-chain").status_code == 200


@pytest.mark.parametrize(
    "where_to", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "evil"]
)
def test_a_login_leads_to_no_other_site(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID, where_to: str
) -> None:
    assert log_in(visitor, make_key(hub_database, org, "read"), where_to).headers["location"] == "/"


def test_a_page_shows_the_own_org_and_nothing_of_another(hub: Hub, hub_database: psycopg.Connection) -> None:
    orgs = {name: uuid4() for name in ("quagga", "okapi")}
    for name, org in orgs.items():
        with hub.client(make_key(hub_database, org)) as sender:
            events = [
                hook_event(
                    org, hook_type=f"{name}-hook", result="blocked", findings_summary={"pattern": f"{name}-pattern"}
                ),
                {
                    "event_type": "workflow_run",
                    "payload": {"outcome": "failure", "workflow": f"{name}-flow", "org_id": str(org)},
                },
            ]
            post(sender, events)
        hub_database.execute(
            "insert into slsa_audit_metrics (audit_run_id, provenance_status, validation_status, tag, org_id,"
            " provenance_run_url) values (%s, 'failure', 'unknown', %s, %s, %s)",
            [uuid4().int % 10**15, f"{name}-tag", org, f"https://github.com/{name}/runs/1"],
        )
        hub_database.execute(
            "insert into ops.alerts (org_id, rule_name, kind, severity, subject, state, pending_since, evaluated_at,"
            " channels, notify_resolved, description, detail) values (%s, 'made_up', 'kpi_threshold', 'page', %s, 'pending',"
            " now(), now(), '{}', true, '', '{}')",
            [org, f"{name}-subject"],
        )
    hub_database.execute("select ops.refresh()")
    shown = {}
    for name, org in orgs.items():
        with hub.client() as browser:
            log_in(browser, make_key(hub_database, org, "read"))
            shown[name] = "".join(browser.get(path, params={"range": "24h"}).text for path in PAGES)
    for name, text in shown.items():
        for word in ("hook", "pattern", "flow", "tag", "subject"):
            assert f"{name}-{word}" in text
        assert ("okapi" if name == "quagga" else "quagga") not in text


def test_a_page_answers_numbers_that_the_database_says(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    with hub.client(make_key(hub_database, org)) as client:
        post(client, [hook_event(org, result=result) for result in ("blocked", "allowed", "allowed", "overridden")])
        log_in(client, make_key(hub_database, org, "read"))
        page = client.get("/hooks", params={"range": "24h"}).text
    tile = re.search(r'data-metric="hook_block_rate">.*?</article>', page, re.DOTALL)
    assert tile is not None
    assert ">25 %<" in tile[0]
    assert "n = 4" in tile[0]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("range=bogus", "range is none of the choices"),
        ("period=fortnight", "period is none of the choices"),
        ("tz=Mars/Olympus", "tz is no time zone"),
        ("range=custom&since=2026-01-02T00:00&until=2026-01-01T00:00", "until is not after since"),
        ("range=custom", "since is no instant"),
        ("range=90d&period=hour", "more than 1,000 periods"),
        ("flavour=vanilla", "flavour is no filter"),
        ("team=" + "x" * 300, "team is too long"),
        ("team=a%00b", "team is too long or holds control characters"),
        ("slo=no_such_objective", "there was no objective"),
    ],
)
def test_a_link_with_a_fault_says_which_and_what_to_do(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID, query: str, words: str
) -> None:
    log_in(visitor, make_key(hub_database, org, "read"))
    answer = visitor.get(f"/slo?{query}" if query.startswith("slo") else f"/?{query}")
    assert answer.status_code == 422
    assert words.lower() in answer.text.lower()
    assert "To the overview" in answer.text


def test_each_group_of_an_objective_has_a_page_that_its_table_links_to(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    name = f"runs-{org.hex[:8]}"
    hub_database.execute(
        "insert into ops.slos (slo_name, service, objective, description, event_type, target, rolling_window, group_by)"
        " values (%s, 'ci', 'error_rate', '', 'workflow_run', 0.9, '30 days', '{workflow}')",
        [name],
    )
    try:
        for workflow, outcome in (("release", "success"), ("nightly <b>", "failure"), ("nightly <b>", "failure")):
            said = {"workflow": workflow, "outcome": outcome}
            query = (
                "insert into telemetry_events (event_type, org_id, tag, metadata) values ('workflow_run', %s, %s, %s)"
            )
            hub_database.execute(query, [org, f"tag of {workflow}", json.dumps(said)])
        hub_database.execute("select ops.refresh()")
        log_in(visitor, make_key(hub_database, org, "read"))
        page = unescape(visitor.get("/slo", params={"slo": name}).text)
        assert page.count("has groups, each with a budget of its own.") == 3
        [link] = set(re.findall(r'<a href="(/slo\?[^"]*nightly[^"]*)"', page))
        page = unescape(visitor.get(link).text)
        assert "Budget of " in page
        assert page.count('workflow="nightly <b>"') >= 5
        assert page.count("<td>tag of nightly <b></td>") == 2
        assert "tag of release" not in page
        other = unescape(visitor.get("/slo", params={"slo": name, "group": "workflow=none"}).text)
        assert other.count("has no group workflow=none.") == 3
        assert visitor.get("/slo", params={"slo": name, "group": "none"}).status_code == 422
    finally:
        hub_database.execute("delete from ops.slos where slo_name = %s", [name])


def test_what_strangers_wrote_is_shown_as_text(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    with hub.client(make_key(hub_database, org)) as client:
        post(client, [hook_event(org, hook_type=hostile, result="blocked", findings_summary={"pattern": hostile})])
        hub_database.execute("select ops.refresh()")
        log_in(client, make_key(hub_database, org, "read"))
        pages = [client.get(path, params={"hook_type": hostile}).text for path in ("/", "/hooks")]
    for page in pages:
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_every_answer_forbids_what_is_not_ours(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    answers = [visitor.get("/login"), visitor.get("/"), log_in(visitor, make_key(hub_database, org, "read"))]
    answers += [visitor.get(path) for path in (*PAGES, "/static/opskpi.css", "/static/live.js", "/?range=bogus")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert visitor.get("/static/secrets").status_code == 404
    assert visitor.get("/static/..%2f..%2fview.py").status_code == 404


def silences(database: psycopg.Connection, org: UUID) -> list[str]:
    with database.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select reason from ops.alert_silences where only_org_id = %s", [org]).fetchall()


def test_an_admin_silences_alerts_with_the_form(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    # Noon is there on every day of every time zone.
    until = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT12:00")
    with hub.client() as browser:
        log_in(browser, make_key(hub_database, org, "read", "admin"))
        token = token_of(browser.get("/alerts"))
        form = {"token": token, "tz": "Europe/Berlin", "matcher": "*", "until": until, "reason": "upgrade"}
        for wrong in ({"token": "0" * 64}, {"until": "soon"}, {"matcher": "nobody_knows_it"}, {"reason": " "}):
            assert browser.post("/alerts/silence", data=form | wrong).status_code in {403, 422}
        foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert browser.post("/alerts/silence", data=form, headers=foreign).status_code == 403
        assert silences(hub_database, org) == []
        assert browser.post("/alerts/silence", data=form).status_code == 303
        assert "upgrade" in browser.get("/alerts").text
    assert silences(hub_database, org) == ["upgrade"]


def test_a_reader_sees_no_form_and_may_not_send_it(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    with hub.client() as browser:
        log_in(browser, make_key(hub_database, org, "read"))
        page = browser.get("/alerts")
        assert "/alerts/silence" not in page.text
        form = {"token": token_of(page), "matcher": "*", "until": "2099-01-01T00:00", "reason": "why"}
        assert browser.post("/alerts/silence", data=form).status_code in {403, 422}
    assert silences(hub_database, org) == []


def test_logging_out_needs_the_own_form_and_ends_the_session(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    log_in(visitor, make_key(hub_database, org, "read"))
    token = token_of(visitor.get("/"))
    assert visitor.post("/logout", data={"token": "wrong"}).status_code == 403
    assert visitor.post("/logout", data={"token": token}).status_code == 303
    assert visitor.get("/").status_code == 303


@pytest.mark.parametrize("shows", ["a key", "a token"])
def test_a_copy_of_the_cookie_is_no_session_after_the_logout_in_any_hub_however_often_they_start(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path, shows: str
) -> None:
    env = TOKEN_ENV | {"OPSKPI_COOKIE_SECRET": "a lasting secret that all of the hubs share"}
    options = ("--token-secret-env", "SUPABASE_JWT_SECRET")
    token = supabase_token(app_metadata={"org_id": str(org)})
    key = make_key(hub_database, org, "read") if shows == "a key" else token
    with running_hub(hub.dsn, folder, *options, env=env) as other:
        with running_hub(hub.dsn, folder, *options, env=env) as one, one.client() as browser:
            log_in(browser, key)
            stolen = {"opskpi_session": browser.cookies["opskpi_session"]}
            with other.client(cookies=stolen) as thief:
                assert thief.get("/").status_code == 200
                token = token_of(browser.get("/"))
                assert browser.post("/logout", data={"token": token}).status_code == 303
                assert thief.get("/").status_code == 303
                log_in(browser, key)
                assert browser.get("/").status_code == 200
        with running_hub(hub.dsn, folder, *options, env=env) as again, again.client(cookies=stolen) as thief:
            assert thief.get("/").status_code == 303


def test_a_supabase_token_is_let_in_until_it_ends(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    options = ("--token-secret-env", "SUPABASE_JWT_SECRET")
    with running_hub(hub.dsn, folder, *options, env=TOKEN_ENV) as own, own.client() as browser:
        assert log_in(browser, supabase_token(app_metadata={"org_id": str(org)}, exp=1)).status_code == 401
        token = supabase_token(app_metadata={"org_id": str(org)}, exp=int(time.time()) + 3)
        assert log_in(browser, token).status_code == 303
        assert str(org) in browser.get("/").text
        eventually(lambda: browser.get("/").status_code != 200)
        # A key is taken as well.
        assert log_in(browser, make_key(hub_database, org, "read")).status_code == 303


def test_a_good_token_speaks_for_its_org_and_scopes() -> None:
    org = uuid4()
    found = Tokens(SECRET, None).caller(supabase_token(app_metadata={"org_id": str(org), "scopes": ["read", "admin"]}))
    assert found is not None
    assert (found[0].org_id, found[0].scopes) == (org, ("read", "admin"))
    without = Tokens(SECRET, None).caller(supabase_token(user_metadata={"org_id": str(org)}))
    assert without is not None
    assert (without[0].org_id, without[0].scopes) == (UUID(int=0), ("ingest", "read"))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"secret": "another secret of thirty-two chars"},
        {"role": "service_role"},
        {"role": "anon"},
        {"is_anonymous": True},
        {"is_anonymous": True, "app_metadata": {"org_id": str(UUID(int=7)), "scopes": ["read", "admin"]}},
        {"is_anonymous": "true"},
        {"aud": "someone-else"},
        {"app_metadata": {"org_id": "not-a-uuid"}},
        {"app_metadata": {"org_id": None}},
        {"app_metadata": {"scopes": "read"}},
        {"app_metadata": "read"},
        {"sub": None},
        {"exp": "soon"},
    ],
    ids=str,
)
def test_a_token_that_is_not_good_speaks_for_nobody(claims: dict[str, Any]) -> None:
    assert Tokens(SECRET, None).caller(supabase_token(**claims)) is None


def test_a_token_that_is_signed_by_nobody_speaks_for_nobody() -> None:
    said = {"sub": "x", "role": "authenticated", "aud": "authenticated", "exp": 2**31}
    assert Tokens(SECRET, None).caller(jwt.encode(said, "", algorithm="none")) is None


def test_a_token_is_read_with_the_keys_of_a_file_and_no_others(tmp_path: Path) -> None:
    ours, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    public = json.loads(ECAlgorithm.to_jwk(ours.public_key())) | {"kid": "one", "alg": "ES256"}
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [public]}))
    tokens = Tokens(None, file)
    said = {"sub": "x", "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 60}

    def speaks(key: object, kid: str | None, algorithm: str = "ES256") -> bool:
        headers = {"kid": kid} if kid else {}
        return tokens.caller(jwt.encode(said, key, algorithm=algorithm, headers=headers)) is not None  # type: ignore[arg-type]

    assert speaks(ours, "one")
    assert not speaks(theirs, "one")
    assert not speaks(ours, "two")
    assert not speaks(ours, None)
    # The public key is no secret: what is signed with it as one is refused.
    assert not speaks(str(public["x"]) * 2, "one", "HS256")


def test_a_file_with_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    modulus = base64.urlsafe_b64encode(b"\xc5" + bytes(range(126)) + b"\x01").decode()
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"kty": "RSA", "kid": "one", "alg": "RS256", "n": modulus, "e": "AQAB"}]}))
    with pytest.raises(OpsKpiError, match="2048 bits"):
        Tokens(None, file)


@pytest.mark.parametrize("text", ["", "nonsense", "{}", '{"keys": []}', '{"keys": [{"kty": "EC"}]}'])
def test_a_file_without_keys_is_refused_before_anything_is_served(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(OpsKpiError) as caught:
        Tokens(None, file)
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    assert "jwks.json" in caught.value.hint


def test_without_auth_this_machine_sees_the_org_and_no_other_name_leads_there(
    migrated_database: Database, folder: Path, org: UUID
) -> None:
    with running_hub(migrated_database.dsn, folder, "--no-auth", "--org", str(org)) as own, own.client() as browser:
        assert str(org) in browser.get("/").text
        assert browser.get("/", headers={"Host": "evil.example"}).status_code == 400
        assert browser.get("/api/v1/policy").status_code == 401


def test_without_auth_no_other_machine_is_served(cli: Any) -> None:
    answer = cli("serve", "--no-auth", "--host", "0.0.0.0", "--port", "0")  # noqa: S104
    assert answer.returncode == 64
    assert "this machine only" in answer.stderr


def test_sessions_outlive_the_hub_where_the_environment_holds_their_secret(
    migrated_database: Database, database: psycopg.Connection, folder: Path
) -> None:
    key = make_key(database, uuid4(), "read")
    cookies = httpx.Cookies()
    for attempt in range(3):
        env = {"OPSKPI_COOKIE_SECRET": "a lasting secret and as long as it must be"} if attempt < 2 else {}
        with running_hub(migrated_database.dsn, folder, env=env) as own, own.client(cookies=cookies) as browser:
            if attempt == 0:
                log_in(browser, key)
                cookies = httpx.Cookies(browser.cookies)
            assert browser.get("/").status_code == (200 if attempt < 2 else 303)


def test_without_a_database_the_page_says_so_and_what_to_do(
    visitor: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    log_in(visitor, make_key(hub_database, org, "read"))
    hub_database.execute("alter function ops.freshness(uuid) rename to freshness_away")
    try:
        answer = visitor.get("/")
        assert answer.status_code == 500
        assert "the log of the hub says why" in answer.text
        assert "freshness" not in answer.text
    finally:
        hub_database.execute("alter function ops.freshness_away(uuid) rename to freshness")
