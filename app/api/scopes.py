"""What a key must be allowed to, declared beside each route: `dependencies=READS`.

A dependency of the route and not of its function, because FastAPI runs those first: before the query is
looked at, and before the body is read.
"""

from fastapi import Depends
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.requests import HTTPConnection

from app.domain.tenancy import Caller, Scope
from app.errors import Forbidden


class Needs:
    """Refuses a caller without the scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, connection: HTTPConnection) -> None:
        check_scope(connection.state.caller, self.scope)


def check_scope(caller: Caller, scope: Scope) -> None:
    """Refuse a caller without the scope.

    Raises:
        Forbidden: it names the scope.
    """
    if not caller.may(scope):
        [missing] = scope.words
        raise Forbidden(
            f"You have insufficient permissions for this operation. Missing scopes: {missing}.",
            code="insufficient_permissions",
        )


READS = [Depends(Needs(Scope.READ))]
WRITES = [Depends(Needs(Scope.WRITE))]
AUDITS = [Depends(Needs(Scope.AUDIT))]


def needed(route: APIRoute | APIWebSocketRoute) -> Scope | None:
    """What a route has declared; None is nothing, as only those outside /v1 may."""
    declared = [each.dependency for each in route.dependencies]
    return next((each.scope for each in declared if isinstance(each, Needs)), None)
