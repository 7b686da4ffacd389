"""Generic webhooks, signed after https://www.standardwebhooks.com."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

from opskpi.alerting import messages
from opskpi.alerting.channels.posting import post
from opskpi.alerting.channels.settings import Setting
from opskpi.alerting.outcomes import Delivery, Outcome
from opskpi.outbound.limits import Timeouts
from opskpi.outbound.secrets import Misconfigured, secret, weakness

ADDRESS = "URL of the webhook"
# Standard Webhooks asks for 24 to 64 random bytes.
SHORTEST_KEY_BYTES = 24
HOW_TO_MAKE = "echo whsec_$(openssl rand -base64 32)"
SETTINGS = (Setting("signing-env", "variable", "variable with the secret that signs, after Standard Webhooks"),)


def send(delivery: Delivery, environ: Mapping[str, str], timeouts: Timeouts) -> Outcome:
    """Post the message as JSON, signed when the setting `signing_env` names a secret."""
    body = messages.webhook_body(delivery.message, delivery.delivery_id)
    headers = {"webhook-id": delivery.stable_id, "webhook-timestamp": str(int(time.time()))}
    if delivery.setting("signing_env") is not None:
        key = _signing_key(environ, delivery.setting("signing_env"))
        signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode('ascii')}"
    return post(delivery, environ, timeouts, body, headers)


def _signing_key(environ: Mapping[str, str], variable: object) -> bytes:
    value = secret(environ, variable)
    prefix, found, encoded = value.partition("whsec_")
    try:
        key = value.encode() if prefix or not found else base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Misconfigured("the signing secret is not base64 after whsec_") from None
    if fault := weakness(key, SHORTEST_KEY_BYTES):
        raise Misconfigured(f"environment variable {variable} {fault}; make one: {HOW_TO_MAKE}")
    return key
