"""What calls and outputs of every type have in common."""

from typing import Annotated, Literal

from typing_extensions import TypedDict

from app.api.schemas.bounds import CallId, Status
from app.api.schemas.unions import OneOf


class DirectCaller(TypedDict):
    type: Literal["direct"]


class ProgramCaller(TypedDict):
    type: Literal["program"]
    caller_id: CallId


Caller = Annotated[DirectCaller | ProgramCaller, OneOf()]


class Made(TypedDict, total=False):
    """What any call or output may carry once it has been part of a response."""

    status: Status | None
    caller: Caller | None
    created_by: str | None
