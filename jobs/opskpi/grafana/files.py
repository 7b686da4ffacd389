"""The files for Grafana by name: dashboards, and what provisions them with their data source."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.grafana import alerts, hooks, overview, slos, supply_chain
from opskpi.grafana.parts import PLUGIN, Dashboard, Query

DASHBOARDS = (overview.DASHBOARD, hooks.DASHBOARD, supply_chain.DASHBOARD, slos.DASHBOARD, alerts.DASHBOARD)
# Tells what we wrote from what somebody changed; Grafana takes no notice of it.
MARK = "__opskpi"
UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
YAML_MARK = "# Written by opskpi grafana; sha256 of what follows: "


def files(folder: Path, source_uid: str, *, show_org: bool, provisioning: bool) -> dict[Path, str]:
    """The content of each file of `folder`: a dashboard each, and with `provisioning` the YAML for Grafana.

    `source_uid` is the data source that provisioned dashboards read; `show_org` lets people choose the organisation.
    Raises OpsKpiError when Grafana would take no such uid.
    """
    if not UID.fullmatch(source_uid):
        raise OpsKpiError(
            f"{source_uid!r} is no uid of a data source",
            "Use up to 40 letters, digits, hyphens and underscores.",
            ExitCode.BAD_ARGUMENT,
        )
    version = importlib.metadata.version("opskpi")
    found = {
        folder / f"{dashboard.uid}.json": _marked_json(_shown(dashboard, show_org).to_json(source_uid, version))
        for dashboard in DASHBOARDS
    }
    if provisioning:
        place = folder / "provisioning"
        found[place / "datasources" / "opskpi.yaml"] = _marked_yaml(_source(source_uid))
        found[place / "dashboards" / "opskpi.yaml"] = _marked_yaml(_provider(folder))
    return found


def is_ours(text: str) -> bool:
    """Whether a file is as some version of `opskpi grafana` wrote it, and nobody changed it since."""
    if text.startswith(YAML_MARK):
        first, _, rest = text.partition("\n")
        return first == YAML_MARK + _digest(rest)
    try:
        document = json.loads(text)
    except ValueError:
        return False
    if not isinstance(document, dict) or MARK not in document:
        return False
    return document.pop(MARK) == _digest(_plain_json(document))


def _shown(dashboard: Dashboard, show_org: bool) -> Dashboard:
    variables: Sequence[Any] = [
        replace(variable, hidden=not show_org) if isinstance(variable, Query) and variable.name == "org" else variable
        for variable in dashboard.variables
    ]
    return replace(dashboard, variables=variables)


def _source(uid: str) -> dict[str, Any]:
    # Grafana puts the values of its own environment in, so that the file holds no secret.
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "opskpi",
                "uid": uid,
                "type": PLUGIN,
                "access": "proxy",
                "url": "$OPSKPI_GRAFANA_HOST",
                "user": "$OPSKPI_GRAFANA_USER",
                "jsonData": {
                    "database": "$OPSKPI_GRAFANA_DATABASE",
                    "sslmode": "$OPSKPI_GRAFANA_SSLMODE",
                    "postgresVersion": 1500,
                    "timescaledb": False,
                    "maxOpenConns": 10,
                },
                "secureJsonData": {"password": "$OPSKPI_GRAFANA_PASSWORD"},
                "editable": False,
            }
        ],
    }


def _provider(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "opskpi",
                "folder": "opskpi",
                "type": "file",
                "allowUiUpdates": False,
                # A dollar sign would name a variable.
                "options": {"path": str(folder.absolute()).replace("$", "$$")},
            }
        ],
    }


def _marked_json(document: dict[str, Any]) -> str:
    return _plain_json(document | {MARK: _digest(_plain_json(document))}) + "\n"


def _marked_yaml(document: dict[str, Any]) -> str:
    text = yaml.safe_dump(document, sort_keys=False)
    return f"{YAML_MARK}{_digest(text)}\n{text}"


def _plain_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
