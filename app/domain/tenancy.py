"""Who owns the data, and who is asking now."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntFlag
from fnmatch import fnmatchcase
from uuid import UUID

from app.domain.dialects import Dialect

DEFAULT_TENANT_ID, DEFAULT_TENANT = 1, "default"
"""The tenant of a server without keys; the first migration makes it."""


class Scope(IntFlag):
    """What a key may do. Stored as a number, so values stay what they are."""

    READ = 1
    WRITE = 2
    AUDIT = 4
    """To read everything, and to write nothing."""
    ADMIN = 8

    @property
    def granted(self) -> "Scope":
        """These and all that they imply: writing without reading back what was written serves nobody."""
        implied = self
        if Scope.ADMIN in self:
            implied |= ALL_SCOPES
        if self & (Scope.WRITE | Scope.AUDIT):
            implied |= Scope.READ
        return implied

    @property
    def words(self) -> tuple[str, ...]:
        """Their names in lower case, as the command line takes them."""
        return tuple((scope.name or "").lower() for scope in Scope if scope in self)


ALL_SCOPES = Scope.READ | Scope.WRITE | Scope.AUDIT | Scope.ADMIN


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request, reduced to what the rest of the server may know."""

    tenant_id: int = DEFAULT_TENANT_ID
    key_id: UUID | None = None
    """None where there are no keys, and for what acts in a tenant's name without a request."""
    scopes: Scope = ALL_SCOPES
    models: tuple[str, ...] | None = None
    """Glob patterns of the models that may be named; None is all."""
    dialect: Dialect | None = None
    """In which the key wants to be answered; None leaves it to the settings."""
    tenant: str = field(default=DEFAULT_TENANT, compare=False)
    """The tenant's name, which is the same on other servers, where it is known."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes.granted

    def may_name(self, model: str) -> bool:
        return self.models is None or any(fnmatchcase(model, pattern) for pattern in self.models)


def last_served(tenant_ids: Iterable[int], before: int) -> int:
    """Whose turn was the last of these: tenants take turns by their ids, beginning behind `before`."""
    return max(tenant_ids, key=lambda each: (each <= before, each))
