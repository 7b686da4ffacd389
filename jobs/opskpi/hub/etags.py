"""Entity tags of the hook policy, and what a caller's conditions say about them (RFC 9110, section 13)."""

import hashlib
import re
from uuid import UUID

TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def entity_tag(org_id: UUID, document: str) -> str:
    """The strong entity tag of an org's policy document, which holds its version and content."""
    return f'"{hashlib.sha256(f"{org_id} {document}".encode()).hexdigest()[:32]}"'


def is_named(tag: str, condition: str) -> bool:
    """Whether an If-None-Match names the tag, which it may do weakly."""
    return condition.strip() == "*" or any(found[2] == tag for found in TAG.finditer(condition))


def is_strongly_named(tag: str, condition: str) -> bool:
    """Whether an If-Match names the tag; a weak one promises too little."""
    return condition.strip() == "*" or any(found[2] == tag and not found[1] for found in TAG.finditer(condition))
