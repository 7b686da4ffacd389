"""Whether a webhook comes from GitHub: X-Hub-Signature-256, an HMAC over the body as it came."""

import hashlib
import hmac
from collections.abc import Mapping

from opskpi.errors import ExitCode, OpsKpiError

PREFIX = "sha256="


def is_signed(body: bytes, signature: str | None, secret: str) -> bool:
    """Whether `signature`, the header X-Hub-Signature-256, is that of the raw bytes of `body` by `secret`.

    Compares in constant time. Without a header or a secret nothing is signed. Source:
    https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    """
    if not signature or not secret:
        return False
    expected = PREFIX + hmac.new(secret.encode(errors="surrogateescape"), body, hashlib.sha256).hexdigest()
    # As bytes: compare_digest refuses a text that is not ASCII. A secret of any bytes is one, and in no message.
    return hmac.compare_digest(expected.encode(), signature.strip().lower().encode(errors="replace"))


def require_signature(body: bytes, signature: str | None, secret_env: str, environ: Mapping[str, str]) -> None:
    """Refuse a body that is not signed with the secret in the environment variable `secret_env`.

    Raises OpsKpiError: CONFIGURATION when the variable is not set, BAD_ARGUMENT without a signature, FAILED when it
    does not fit. None of the texts holds the secret or the signature that would fit.
    """
    secret = environ.get(secret_env, "")
    if not secret:
        raise OpsKpiError(
            f"environment variable {secret_env} is not set", "Put the webhook's secret there.", ExitCode.CONFIGURATION
        )
    if not signature:
        raise OpsKpiError(
            "the payload has no signature",
            "Pass the header X-Hub-Signature-256 with --signature.",
            ExitCode.BAD_ARGUMENT,
        )
    if not is_signed(body, signature, secret):
        raise OpsKpiError(
            "the signature does not fit the payload: it was changed, or signed with another secret",
            f"Compare {secret_env} with the secret of the webhook, and pass the body byte for byte as it came.",
        )
