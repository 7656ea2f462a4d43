"""What the lines of an export say. Each is one JSON object with an `object` that names its kind."""

from collections.abc import Mapping
from typing import Any

import orjson

from app import ids
from app.domain.audit import Checkpoint, Head, Record, shown, shown_checkpoint
from app.domain.export import FORMAT_VERSION, NOTHING, Ending, Export, Place, given, instant
from app.domain.turn import with_output


def header_object(export: Export) -> dict[str, Any]:
    """What an export is of."""
    bounds = export.bounds
    return {
        "object": "export",
        "format_version": FORMAT_VERSION,
        "id": export.name,
        "tenant": export.tenant_id,
        "created_at": instant(bounds.before),
        "filters": given(export.filters),
        "until": ids.response_id(bounds.until) if bounds.until != NOTHING else None,
        "audit_after": head_object(bounds.audit_after),
        "audit_until": head_object(bounds.audit_until),
    }


def header_line(export: Export) -> bytes:
    """The first line."""
    return _line(header_object(export))


def response_line(body: bytes, input_blob: bytes, output_blob: bytes, how: Ending) -> bytes:
    """One response: the object that `GET` answers when every gated field is asked for, and its own input."""
    ending = orjson.dumps(
        {"finished_at": how.finished_at and instant(how.finished_at), "attempts": how.attempts}
    )
    return b'{"object":"export.response","response":%b,"input":[%b],%b\n' % (
        with_output(body, output_blob),
        input_blob,
        ending[1:],
    )


def record_line(record: Record) -> bytes:
    """One record of the trail, as the API shows it."""
    return _line(shown(record))


def checkpoint_line(checkpoint: Checkpoint) -> bytes:
    """One checkpoint of the trail, as the API shows it."""
    return _line(shown_checkpoint(checkpoint))


def manifest_line(export: Export, place: Place) -> bytes:
    """The last line: what has to have come before it."""
    return _line(
        {
            "object": "export.manifest",
            "id": export.name,
            "responses": place.responses,
            "audit_records": place.audit_records,
            "bytes": place.size,
            "chained_sha256": place.chain.hex(),
            "head": head_object(export.bounds.audit_until),
        }
    )


def head_object(head: Head) -> dict[str, Any]:
    """A place of the trail."""
    return {"seq": head.seq, "hash": head.hash.hex()}


def _line(said: Mapping[str, Any]) -> bytes:
    return orjson.dumps(said) + b"\n"
