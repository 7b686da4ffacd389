"""How a request presents its API key."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from opskpi.access import keys
from opskpi.hub.database import unauthorized


class PresentedKey(HTTPBearer):
    """Takes the API key of a request; what has not the form of one is refused without asking the database."""

    async def __call__(self, request: Request) -> keys.ApiKey:  # type: ignore[override]
        """The key. Raises Problem, 401."""
        credentials = await super().__call__(request)
        key = keys.parse(credentials.credentials) if credentials else None
        if key is None:
            raise unauthorized()
        return key


bearer = PresentedKey(
    auto_error=False,
    scheme_name="apiKey",
    bearerFormat="opskpi_<key id>_<secret>",
    description="An API key, made by `opskpi key create`; its scopes are ingest, read and admin.",
)
# One dependency a request, since each takes a twentieth of a millisecond.
Key = Annotated[keys.ApiKey, Security(bearer)]
