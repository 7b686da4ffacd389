"""The kinds of channels, one per file, and the registry that sends over the kind that a delivery names.

To add a kind, write a module here and add its name to `registry.KINDS`. The module has `ADDRESS`, which says what the
variable of `secret_env` holds, `SETTINGS`, what the kind takes beside it, and `send`, which sends one delivery.
"""
