"""Kinds of channels: one list that files, sending and the command line follow."""

import json
import pkgutil
import sys
from datetime import UTC, datetime
from types import ModuleType
from uuid import UUID

import pytest

from opskpi.alerting import channels
from opskpi.alerting.channels import registry
from opskpi.alerting.channels.settings import Setting
from opskpi.alerting.outcomes import Delivery, Refused, Sent
from opskpi.openslo.reading import read_text
from opskpi.openslo.writing import write
from support.fixtures import Cli

# What the kinds share.
SHARED = {"posting", "registry", "settings"}
TARGET = """\
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata:
  name: on-call
  annotations:
    opskpi.dev/secret-env: PAGER_URL
    opskpi.dev/reply-to: team@example.org
spec: {target: pager}
"""


def delivery_to_pager(kind: str) -> Delivery:
    return Delivery(
        delivery_id=1, attempt=1, org_id=UUID(int=0), channel_name="on-call", channel_kind=kind, secret_env="PAGER_URL",
        settings={}, group_key="", created_at=datetime(2026, 3, 10, tzinfo=UTC), message={},
    )  # fmt: skip


@pytest.fixture
def pager(monkeypatch: pytest.MonkeyPatch) -> list[Delivery]:
    """Add a kind as its author would, a module and its name; return what is sent over it."""
    sent: list[Delivery] = []

    def send(delivery: Delivery, *_: object) -> Sent:
        sent.append(delivery)
        return Sent()

    module = ModuleType("opskpi.alerting.channels.pager")
    vars(module).update(ADDRESS="URL of the pager", SETTINGS=(Setting("reply-to", "address", "address"),), send=send)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, "pager"))
    return sent


def test_every_module_of_the_package_is_a_kind_or_shared_by_the_kinds() -> None:
    modules = {module.name for module in pkgutil.iter_modules(channels.__path__)}
    assert modules == {*registry.KINDS, *SHARED}
    for name in registry.KINDS:
        kind = registry.kind_of(name)
        assert kind.ADDRESS
        assert callable(kind.send)
        assert len({setting.key for setting in kind.SETTINGS}) == len(kind.SETTINGS)


def test_the_command_line_lists_the_kinds_with_what_each_needs(cli: Cli) -> None:
    answer = cli("alert", "list", "--kinds", "--json")
    assert answer.returncode == 0, answer.stderr
    listed = {row["kind"]: row for row in json.loads(answer.stdout)}
    assert tuple(listed) == registry.KINDS
    assert listed["email"]["annotations"] == "opskpi.dev/to (required, addresses); opskpi.dev/from (address)"
    assert all(kind in cli("alert", "list", "--kinds").stdout for kind in registry.KINDS)


def test_a_kind_that_was_added_is_read_from_files_and_written_back(pager: list[Delivery]) -> None:
    read = read_text("pager.yaml", TARGET)
    (channel,) = read.channels
    assert (channel.kind, channel.settings) == ("pager", {"reply_to": "team@example.org"})
    assert "opskpi.dev/reply-to: team@example.org" in write(read)


def test_a_kind_that_was_added_sends(pager: list[Delivery]) -> None:
    assert registry.send(delivery_to_pager("pager"), {}) == Sent()
    assert [one.channel_kind for one in pager] == ["pager"]


def test_a_kind_that_this_program_does_not_know_is_refused_when_it_is_to_send() -> None:
    outcome = registry.send(delivery_to_pager("carrier_pigeon"), {})
    assert isinstance(outcome, Refused)
    assert "does not know the kind" in outcome.reason
