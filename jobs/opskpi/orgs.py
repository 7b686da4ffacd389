"""The org of whoever names none."""

from uuid import UUID

# For single-tenant use.
NIL_ORG = UUID(int=0)
