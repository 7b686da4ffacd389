"""The hub: telemetry, metrics and policy over HTTP, where the database decides who may do what."""
