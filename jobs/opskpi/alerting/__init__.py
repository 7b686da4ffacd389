"""Sends what the outbox holds to Slack, mailboxes, webhooks and, through the library apprise, to everything else."""
