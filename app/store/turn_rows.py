"""A turn as a row of `responses`: its columns, encoded once for every statement that writes it."""

from typing import Any

from app.domain.audit import content_digest
from app.domain.turn import Turn
from app.store import lineage
from app.store.codec import CODEC, compress
from app.store.outbox import text
from app.store.statements import storable

COLUMNS = (
    "tenant_id", "id", "chain_id", "previous_id", "seq", "fork_chains", "fork_seqs", "input_count",
    "output_count", "input_bytes", "status", "codec", "input_gated", "output_gated", "model",
    "continuation", "body", "items", "conversation_id", "context_tokens",
)  # fmt: skip


def values(turn: Turn) -> dict[str, Any]:
    return {
        "id": turn.id,
        "previous_id": turn.parent,
        "conversation_id": turn.conversation,
        **outcome(turn),
        **lineage.encode(turn.place),
    }


def outcome(turn: Turn) -> dict[str, Any]:
    blob = b",".join(part for part in (turn.input_blob, turn.output_blob) if part)
    return {
        "digest": content_digest(turn.body, blob),
        "data": text({"status": turn.status.wire, "model": turn.model}),
        "status": turn.status,
        "codec": CODEC,
        "model": storable(turn.model),
        "input_count": turn.input_count,
        "output_count": turn.output_count,
        "input_bytes": len(turn.input_blob),
        "input_gated": turn.input_gated,
        "output_gated": turn.output_gated,
        "continuation": lineage.encode_continuation(turn.continuation),
        "context_tokens": turn.context_tokens,
        "body": compress(turn.body),
        "items": compress(blob),
    }
