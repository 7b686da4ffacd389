"""Telemetry KPIs and SLOs for software delivery, computed inside Postgres; the jobs only call its functions."""
