"""A create that refers to a prompt, before it is a draft."""

from collections.abc import Mapping
from typing import Any

from app.api.validation import check_state
from app.domain.tenancy import Caller
from app.generation.prompts import resolve
from app.resources import Resources


async def prompted(params: Mapping[str, Any], caller: Caller, it: Resources) -> Mapping[str, Any]:
    """The parameters with what their prompt says; as they are, and asking nobody, where there is none.

    Raises:
        NotFound: there is no such prompt, or no such version of it.
        InvalidRequest: the request has two histories, its variables do not fit, or nobody names a model.
    """
    if params.get("prompt") is None:
        return params
    # Told before an unknown prompt is (surface notes §2.4).
    check_state(params)
    return await resolve(
        it.db,
        caller,
        params,
        default_model=it.settings.default_model,
        max_bytes=it.settings.max_item_bytes,
    )
