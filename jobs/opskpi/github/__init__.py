"""Runs, jobs and artifacts of GitHub Actions as events: from webhook payloads, from files, from the REST API."""
