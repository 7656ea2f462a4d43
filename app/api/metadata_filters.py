"""`metadata[key]=value` in a query."""

import re

from fastapi import Request

from app.api.schemas import conversation as schemas
from app.api.schemas import refusals
from app.errors import InvalidRequest

MAX_PAIRS = 16
"""So many can anything have."""

_FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def metadata_filters(request: Request) -> dict[str, str]:
    """The pairs of `metadata[key]=value` in the query.

    Raises:
        InvalidRequest: one holds what no metadata can, a key is asked for twice, or it is none at all.
    """
    wanted = dict[str, str]()
    for name, value in request.query_params.multi_items():
        if not (match := _FILTER.fullmatch(name)):
            if name.startswith("metadata"):
                raise refusals.unknown(refusals.clip(name), ["metadata[key]"])
            continue
        if "\0" in name or "\0" in value:
            raise schemas.nul(refusals.clip(name))
        if wanted.setdefault(match[1], value) != value:
            raise InvalidRequest(
                f"Invalid '{name}': nothing has two values of one key.",
                code="invalid_value",
                param=name,
            )
    if len(wanted) > MAX_PAIRS:
        raise refusals.too_many_properties("metadata", len(wanted), MAX_PAIRS)
    return wanted
