"""Brings what is counted up to date: rollups, KPIs and SLIs."""
