"""Whether the settings in a folder may be a stranger's: nothing is sent where they say."""

from opskpi.hooks import settings, trust


def reason_for(folder: str) -> str:
    """Why the settings in a `.sentinel` folder may be a stranger's, in words; empty where they are the caller's."""
    try:
        return trust.fault(f"{folder}/{settings.NAME}", 3) or trust.brought_along(folder)
    except OSError as error:
        return f"whose {folder} is cannot be told: {error.strerror}"
