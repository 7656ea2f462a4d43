"""Who owns the data, and who is asking now."""

from dataclasses import dataclass

DEFAULT_TENANT_ID = 1
"""The tenant of a server without keys; the first migration makes it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request, reduced to what the rest of the server may know."""

    tenant_id: int = DEFAULT_TENANT_ID
