"""GET /v1/responses/export: all that the filters find, and the trail that vouches for it, as one stream."""

from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from app.api import openapi
from app.api.deps import CallerDep, ResourcesDep
from app.api.limits import open_stream
from app.api.response_filters import KNOWN_NAMES, FiltersDep
from app.api.scopes import AUDITS
from app.api.sse import Attended, EventStream
from app.errors import InvalidRequest
from app.generation import export, export_begin, export_parquet

router = APIRouter(prefix="/v1/responses", tags=["responses"])


class Download(EventStream):
    """Bytes for as long as the client takes them. One that is broken off has no end, and so no manifest."""

    def __init__(
        self, body: AsyncGenerator[bytes], *, attended: Attended, name: str, media_type: str
    ) -> None:
        super().__init__(body, attended=attended)
        self.headers["content-type"] = media_type
        self.headers["content-disposition"] = f'attachment; filename="{name}"'


@router.get("/export", dependencies=[*AUDITS, *KNOWN_NAMES], **openapi.EXPORT)
async def export_responses(
    caller: CallerDep,
    it: ResourcesDep,
    filters: FiltersDep,
    form: Annotated[Literal["jsonl", "parquet"], Query(alias="format")] = "jsonl",
    resume: Annotated[
        str | None,
        Query(description="The last cursor that came of an export with these filters: go on behind it."),
    ] = None,
) -> Response:
    """Export whole responses, oldest first, and the segment of the audit trail that tells of them.

    JSON lines: a header, a response each, the records and checkpoints of the trail, cursors in between, and
    last a manifest. Without its manifest an export is not whole: cut it off behind its last cursor, and
    append what the same request with `resume` answers. What is stored after it began is not in it.

    Parquet: a row for each response, without the trail, and it cannot be resumed.
    """
    open_stream(caller, it)
    if form == "parquet":
        if resume is not None:
            raise InvalidRequest("'resume' goes with format=jsonl alone.", param="resume")
        arrow = export_parquet.Arrow()
        begun, _ = await export_begin.begin(it.ledger, caller, filters, form=form)
        body = export_parquet.stream(arrow, it.db, caller, begun)
        return Download(body, attended=it.attended, name=f"{begun.name}.parquet", media_type=PARQUET)
    if resume is not None:
        begun, chain = await export_begin.resume(it.ledger, caller, filters, resume)
    else:
        begun, chain = await export_begin.begin(it.ledger, caller, filters, form=form)
    body = export.lines(it.db, caller, begun, chain)
    return Download(body, attended=it.attended, name=f"{begun.name}.jsonl", media_type=JSON_LINES)


JSON_LINES = "application/x-ndjson"
PARQUET = "application/vnd.apache.parquet"
