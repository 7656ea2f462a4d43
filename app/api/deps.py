"""What routes ask for by type.

Coroutines, though they await nothing: FastAPI runs plain functions in threads, and a hop there and back costs
more than a read.
"""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Query, Request

from app.domain.gates import INCLUDES
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.resources import Resources


async def _resources(request: Request) -> Resources:
    return request.app.state.resources


async def _caller(request: Request) -> Caller:
    """Whom the key stands for (`app.api.authentication`)."""
    return request.state.caller


async def _include(
    include: Annotated[list[str] | None, Query(description="Gated fields to show.")] = None,
    brackets: Annotated[
        list[str] | None, Query(alias="include[]", description="The same, as OpenAI's clients write it.")
    ] = None,
) -> frozenset[str]:
    """The gated fields that the reader wants to see (reference: "include")."""
    wanted = [*(include or ()), *(brackets or ())]
    check_include(wanted)
    return frozenset(wanted)


def check_include(wanted: Sequence[str], *, also: Sequence[str] = ()) -> None:
    """Refuse what nothing stands for.

    Raises:
        InvalidRequest: it names the value, and all that there are.
    """
    for place, value in enumerate(wanted):
        if value not in INCLUDES:
            *most, last = (f"'{name}'" for name in (*also, *INCLUDES))
            raise InvalidRequest(
                f"Invalid value: '{value}'. Supported values are: {', '.join(most)}, and {last}.",
                code="invalid_value",
                param=f"include[{place}]",
            )


ResourcesDep = Annotated[Resources, Depends(_resources)]
CallerDep = Annotated[Caller, Depends(_caller)]
IncludeDep = Annotated[frozenset[str], Depends(_include)]
