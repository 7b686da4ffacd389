"""Dashboards for Grafana, which read the `v_ops_*` views with its own Postgres data source."""

from opskpi.grafana.files import files
from opskpi.grafana.writing import write

__all__ = ["files", "write"]
