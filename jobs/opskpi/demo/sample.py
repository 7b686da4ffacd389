"""A made-up month of one organisation's telemetry: everyday work, one latency incident and one outage.

What goes wrong does so about as often in every month, so the SLOs end in the same states whatever the seed:
validation availability and errors breached, provenance latency and audit errors at risk, the rest ok.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import NamedTuple

from opskpi.demo.drawing import ORG_ID, Event, Story, drawn_uuid

OFFICE_HOURS = [int(weight) for weight in "000000137998579986321100"]  # of each hour of the day, UTC
ALL_HOURS = [1 + weight for weight in OFFICE_HOURS]
AT_NIGHT = [int(hour == 2) for hour in range(24)]
WEEKEND = 0.12
COMMITS_A_DAY, API_REQUESTS_A_DAY, RELEASES_A_DAY = 420, 330, 60
IRREPRODUCIBLE = 9 * RELEASES_A_DAY  # the number of the one release that never gets its provenance
ATTEMPTS, SLOWDOWN = 3, 4
CALM = timedelta(hours=2)  # without failures at the end, so that no retry lies beyond it

AREAS = ("checkout", "ledger", "search", "catalog", "accounts", "mailer", "billing", "shipping")
COMPONENTS = [f"{area}-{part}" for area in AREAS for part in ("api", "web", "worker")]
ARTIFACTS = {"container": (0.6, 85e6), "binary": (0.7, 18e6), "sbom": (1, 180e3)}  # share, median bytes
# Weight, median ms.
ENDPOINTS = {"/api/v1/telemetry": (70, 38), "/api/v1/policy": (20, 9), "/api/v1/hooks/metrics": (10, 140)}
PATTERNS = {  # weight, severity
    "console.log": (30, "warning"), "print": (16, "warning"), "debugger": (12, "warning"),
    "trailing_whitespace": (18, "info"), "todo": (14, "info"), "aws_secret": (6, "critical"),
}  # fmt: skip
AUDITED = {  # columns of slsa_audit_metrics and the share of audits that find them false
    "sha256_verified": 0.0022, "predicate_type_verified": 0.0012,
    "supabase_provenance_synced": 0.004, "supabase_validation_synced": 0.006,
}  # fmt: skip
TEAMS = {  # agents, share of hook runs blocked, share of those overridden, slowness
    "payments": (12, 0.05, 0.10, 1.1),
    "platform": (10, 0.07, 0.18, 0.8),
    "storefront": (11, 0.12, 0.34, 1.3),
    "data": (7, 0.09, 0.25, 1.0),
}
WORKFLOWS = {  # a day, median ms, weights of the outcomes, weights of the hours, of a weekend day
    "ci": (150, 390e3, (84, 11, 4, 1), OFFICE_HOURS, WEEKEND),
    "codeql": (24, 660e3, (96, 2, 1, 1), OFFICE_HOURS, WEEKEND),
    "docs": (18, 95e3, (88, 3, 1, 8), OFFICE_HOURS, WEEKEND),
    "nightly": (24, 1900e3, (91, 8, 1, 0), AT_NIGHT, 1),
}
STAGES = {  # median ms, share of first attempts that fail, share of attempts that are slow
    "slsa_provenance": (110e3, 0.0045, 0.022),
    "provenance_validate": (40e3, 0.002, 0.02),
    "audit_observer": (58e3, 0.011, 0.025),
}


class Episode(NamedTuple):
    """Something that goes wrong in the month: what, the objective whose budget it burns, and when its events end."""

    what: str
    slo_name: str
    since: datetime
    until: datetime


_Dated = Iterator[tuple[datetime, Event]]


class _Run(NamedTuple):
    run_id: int
    ended_at: datetime
    outcome: str
    duration_ms: int


class _Release(NamedTuple):
    component: str
    tag: str
    stages: dict[str, list[_Run]]  # the attempts at each stage that was reached
    audited: dict[str, bool]


def month(until: datetime, *, seed: int = 2026, days: int = 30) -> list[Event]:
    """Return the events of the `days` before `until` (aware), oldest first, in the batch format.

    All ten event types, about 1,400 events a day. The same arguments give the same events, ids included.
    """
    releases = _releases(Story("releases", until, seed, days))
    events = [
        *_hook_events(Story("hooks", until, seed, days), teams(seed=seed)),
        *_release_events(Story("release events", until, seed, days), releases),
        *_workflow_events(Story("workflows", until, seed, days)),
        *_api_events(Story("api", until, seed, days)),
    ]
    return [event for at, event in sorted(events, key=lambda dated: dated[0]) if at < until]


def audits(until: datetime, *, seed: int = 2026, days: int = 30) -> list[dict[str, object]]:
    """Return rows of slsa_audit_metrics, by column: what the audits of `month` with these arguments found."""
    digests = Story("digests", until, seed, days).chance
    rows: list[dict[str, object]] = []
    for release in _releases(Story("releases", until, seed, days)):
        audit = release.stages["audit_observer"][-1]
        if audit.outcome != "success" or audit.ended_at >= until:
            continue
        row: dict[str, object] = {
            "org_id": ORG_ID,
            "audit_run_id": audit.run_id,
            "audit_timestamp": audit.ended_at,
            "tag": release.tag,
            "sha256": f"{digests.getrandbits(256):064x}",
            "predicate_type": "https://slsa.dev/provenance/v1",
            "builder_id": "https://github.com/example/builders/.github/workflows/slsa.yml@refs/tags/v2.1.0",
        }
        for name, stage in (("provenance", "slsa_provenance"), ("validation", "provenance_validate")):
            run = release.stages[stage][-1] if stage in release.stages else None
            link = f"https://github.com/example/{release.component}/actions/runs/"
            row[f"{name}_status"] = run.outcome if run else "skipped"
            row[f"{name}_run_id"] = run.run_id if run else None
            row[f"{name}_run_url"] = f"{link}{run.run_id}" if run else None
        rows.append(row | release.audited)
    return rows


def episodes(until: datetime, *, seed: int = 2026, days: int = 30) -> list[Episode]:
    """Return the incident and the outage of `month` with these arguments, oldest first, late retries included."""
    story = Story("episodes", until, seed, days)
    late = timedelta(minutes=30)
    incident, outage = story.incident, story.outage
    return [
        Episode("a latency incident", "provenance_generation_latency", incident[0], incident[1] + late),
        Episode("an outage", "provenance_validation_error_rate", outage[0], outage[1] + late),
    ]


def teams(*, seed: int = 2026) -> dict[str, str]:
    """Return the team of each agent_id."""
    chance = Random(f"{seed} agents")  # noqa: S311 - no secret
    return {drawn_uuid(chance): name for name, (agents, *_) in TEAMS.items() for _ in range(agents)}


def _hook_events(story: Story, agents: dict[str, str]) -> _Dated:
    chance, agent_ids = story.chance, list(agents)
    for at in story.instants(COMMITS_A_DAY, OFFICE_HOURS, WEEKEND):
        agent_id = chance.choice(agent_ids)
        _, blocked, overridden, slowness = TEAMS[agents[agent_id]]
        who = {"agent_id": agent_id, "hook_type": "pre-push" if chance.random() < 0.28 else "pre-commit"}
        if chance.random() >= blocked:
            yield _hook_execution(story, at, slowness, who, result="allowed")
            continue
        pattern = chance.choices(list(PATTERNS), [weight for weight, _ in PATTERNS.values()])[0]
        severity, found = PATTERNS[pattern][1], 1 + int(chance.expovariate(1))
        findings = {"total": found, severity: found, "pattern": pattern}
        yield _hook_execution(story, at, slowness, who, result="blocked", **findings)
        again_at = at + story.minutes(0.5, 25)
        fate = chance.random()
        if fate < overridden:
            reason = chance.choice(("hotfix", "false positive", "test fixture", "generated code"))
            yield _hook_execution(story, again_at, slowness, who, result="overridden", **findings)
            override = {"override_reason": reason, "findings_count": found, "severity": severity}
            yield story.event("hook_override", again_at, **who, **override)
        elif fate < 0.95:
            if fate > 0.85:
                entry = {"file": "src/settings.py", "line": chance.randint(1, 400), "pattern": pattern}
                entry |= {"reason": "an example in the docs", "date": f"{again_at:%Y-%m-%d}"}
                reviewed = chance.random() < 0.7
                accepted = {"baseline_entry": entry, "source": "cli", "reviewed": reviewed}
                yield story.event("hook_baseline", again_at, **who, **accepted)
            yield _hook_execution(story, again_at + timedelta(seconds=20), slowness, who, result="allowed")


def _hook_execution(
    story: Story, at: datetime, slowness: float, who: dict[str, str], *, result: str, **findings: object
) -> tuple[datetime, Event]:
    summary = {"total": 0, "critical": 0, "warning": 0, "info": 0} | findings
    duration_ms = story.around(slowness * (4200 if who["hook_type"] == "pre-push" else 380), 0.6)
    ran = {"result": result, "findings_summary": summary, "duration_ms": duration_ms}
    return story.event("hook_execution", at, **who, **ran)


def _releases(story: Story) -> Iterator[_Release]:
    chance = story.chance
    versions = {name: [chance.randint(0, 4), chance.randint(0, 20), 0] for name in COMPONENTS}
    for number, released_at in enumerate(story.instants(RELEASES_A_DAY, OFFICE_HOURS, WEEKEND)):
        component = chance.choice(COMPONENTS)
        part = chance.choices((0, 1, 2), (1, 24, 75))[0]
        version = versions[component] = [*versions[component][:part], versions[component][part] + 1, 0, 0][:3]
        is_lost, is_unaudited = number == IRREPRODUCIBLE, story.happens("is unaudited", 0.002)
        hopeless = {"slsa_provenance": is_lost, "audit_observer": is_unaudited}
        stages: dict[str, list[_Run]] = {}
        at = released_at
        for name in STAGES:
            if not (is_lost and name == "provenance_validate"):
                stages[name] = _attempts(story, name, at, hopeless=hopeless.get(name, False))
                at = stages[name][-1].ended_at + story.minutes(0.5, 3)
        audited = {name: not (is_lost or story.happens(name, share)) for name, share in AUDITED.items()}
        yield _Release(component, f"{component}/v{'.'.join(map(str, version))}", stages, audited)


def _attempts(story: Story, name: str, at: datetime, *, hopeless: bool) -> list[_Run]:
    median_ms, failing, slow = STAGES[name]
    runs: list[_Run] = []
    for attempt in range(ATTEMPTS):
        is_slow = story.happens(f"{name} is slow", slow)
        is_slow |= name == "slsa_provenance" and story.is_incident(at)
        fails = hopeless or (attempt == 0 and story.happens(f"{name} fails", failing))
        fails = (fails and at < story.until - CALM) or (name == "provenance_validate" and story.is_outage(at))
        is_cancelled = attempt == 0 and not fails and story.happens(f"{name} is cancelled", 0.003)
        outcome = "failure" if fails else "cancelled" if is_cancelled else "success"
        duration_ms = story.around(median_ms * (SLOWDOWN if is_slow else 1), 0.25)
        ended_at = at + timedelta(milliseconds=duration_ms)
        runs.append(_Run(story.run_id(at), ended_at, outcome, duration_ms))
        if outcome == "success":
            break
        at = ended_at + story.minutes(4, 14)
    return runs


def _release_events(story: Story, releases: Iterator[_Release]) -> _Dated:
    for release in releases:
        about: dict[str, object] = {"tag": release.tag, "repository": f"example/{release.component}"}
        before: dict[str, object] = {}
        for name, runs in release.stages.items():
            for run in runs:
                ran = about | {"run_id": run.run_id, "outcome": run.outcome, "duration_ms": run.duration_ms}
                yield story.event(name, run.ended_at, **ran, **before, workflow=name)
                if name == "slsa_provenance":
                    ran["duration_ms"] = run.duration_ms + story.around(240e3, 0.3)
                    yield story.event("workflow_run", run.ended_at, **ran, workflow="release")
            before[f"{name}_run_id"] = runs[-1].run_id
        build, audit = release.stages["slsa_provenance"][-1], release.stages["audit_observer"][-1]
        for kind, (share, median) in ARTIFACTS.items():
            if build.outcome == "success" and story.chance.random() < share:
                made = about | {"run_id": build.run_id, "kind": kind, "size_bytes": story.around(median, 0.5)}
                yield story.event("artifact", build.ended_at, **made)
        if audit.outcome == "success":
            is_good = all(runs[-1].outcome == "success" for runs in release.stages.values())
            is_good = is_good and all(release.audited.values())
            ended = about | {"run_id": audit.run_id, "outcome": "success" if is_good else "failure"}
            yield story.event("audit_complete", audit.ended_at, **ended)


def _workflow_events(story: Story) -> _Dated:
    # How far a run comes, in the order of the outcomes' weights.
    progress = {"success": 1, "failure": 0.7, "cancelled": 0.3, "skipped": 0.005}
    for name, (a_day, median_ms, weights, hours, weekend) in WORKFLOWS.items():
        for at in story.instants(a_day, hours, weekend):
            outcome = story.chance.choices(list(progress), weights)[0]
            duration_ms = story.around(median_ms * progress[outcome], 0.4)
            ran = {"workflow": name, "outcome": outcome, "duration_ms": duration_ms}
            ended_at = at + timedelta(milliseconds=duration_ms)
            yield story.event("workflow_run", ended_at, run_id=story.run_id(at), **ran)


def _api_events(story: Story) -> _Dated:
    chance = story.chance
    for at in story.instants(API_REQUESTS_A_DAY, ALL_HOURS, weekend=0.4):
        endpoint = chance.choices(list(ENDPOINTS), [weight for weight, _ in ENDPOINTS.values()])[0]
        median = ENDPOINTS[endpoint][1] * (SLOWDOWN if story.is_incident(at) else 1)
        outcome = "failure" if chance.random() < (0.2 if story.is_outage(at) else 0.003) else "success"
        answer = {"endpoint": endpoint, "outcome": outcome, "duration_ms": story.around(median, 0.5)}
        yield story.event("api_request", at, **answer)
