"""The body of `POST /v1/responses/compact`, each field as in a create's; all but `model` may be absent."""

from typing import Annotated, Literal, Required

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from app.api.schemas.bounds import BODY, id_of
from app.api.schemas.create import ImageOptions, Input, PromptCacheOptions


@BODY
class CompactResponse(TypedDict, total=False):
    """Make a long context short."""

    model: Required[str]
    input: Input | None
    prompt_cache_options: PromptCacheOptions | None
    prompt_cache_key: Annotated[str, Field(max_length=64)] | None
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    instructions: str | None
    service_tier: Literal["auto", "default", "fast", "flex", "priority"] | None
    previous_response_id: Annotated[str, id_of("resp")] | None
    image: ImageOptions | None


COMPACT = TypeAdapter(CompactResponse)
PARAMETERS = frozenset(CompactResponse.__annotations__)
