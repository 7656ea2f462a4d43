"""Responses as rows of Parquet, for whoever analyses them. pyarrow is an extra, loaded when it is needed."""

import asyncio
import io
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from importlib import import_module
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain.export import NOTHING, Export
from app.domain.export_lines import header_object
from app.domain.facts import usage_of
from app.domain.jobs import Mode
from app.domain.tenancy import Caller
from app.domain.turn import without_output
from app.errors import InvalidRequest
from app.generation.export import Exported, end, responses
from app.store.db import Database

GROUP_ROWS = 2000
GROUP_BYTES = 8 << 20
"""A row group has so many rows, or so many bytes of JSON: as much as is held in memory."""

_FEW_VALUES = ["model", "status", "user", "safety_identifier", "conversation", "error_code"]


class Arrow:
    """pyarrow, which takes 70 MB of memory: no process loads it that is not asked for Parquet."""

    def __init__(self) -> None:
        """Load it.

        Raises:
            InvalidRequest: it is not installed.
        """
        try:
            self.arrow: Any = import_module("pyarrow")
            self.parquet: Any = import_module("pyarrow.parquet")
        except ImportError:
            raise InvalidRequest(
                "Parquet needs pyarrow, which is not installed here: pip install 'holdfast[parquet]'.",
                code="unsupported_parameter",
                param="format",
            ) from None

    def schema(self, export: Export) -> Any:
        """The columns. The file itself says what it was exported of."""
        pa = self.arrow
        text, count = pa.string(), pa.int64()
        columns = [
            ("id", text),
            ("created_at", pa.timestamp("ms", "UTC")), ("finished_at", pa.timestamp("us", "UTC")),
            ("model", text), ("status", text), ("background", pa.bool_()), ("attempts", pa.int32()),
            ("user", text), ("safety_identifier", text), ("previous_response_id", text),
            ("conversation", text), ("error_code", text), ("input_tokens", count), ("cached_tokens", count),
            ("output_tokens", count), ("reasoning_tokens", count),
            ("metadata", text), ("response", text), ("input", text), ("output", text),
        ]  # fmt: skip
        header = orjson.dumps(header_object(export))
        return pa.schema([pa.field(*each) for each in columns], metadata={"holdfast.export": header})


class Rows:
    """A Parquet file that is being written, a row group at a time."""

    def __init__(self, arrow: Arrow, export: Export, sink: Any) -> None:
        """`sink` takes `write`; the groups are the same whatever pages the rows come in."""
        self._arrow = arrow
        self._schema = arrow.schema(export)
        self._writer = arrow.parquet.ParquetWriter(
            sink, self._schema, compression="zstd", use_dictionary=_FEW_VALUES
        )
        self._waiting = list[dict[str, Any]]()
        self._size = 0
        self.count = 0

    async def add(self, each: Exported) -> None:
        row = row_of(each)
        self._waiting.append(row)
        self._size += len(row["response"]) + len(row["input"]) + len(row["output"])
        self.count += 1
        if len(self._waiting) >= GROUP_ROWS or self._size >= GROUP_BYTES:
            await self._flush()

    async def close(self, last: UUID) -> None:
        """Write what waits, and the end without which the file is none. It says how many rows there are, and
        which is the last.
        """
        await self._flush()
        last_id = ids.response_id(last) if self.count else None
        manifest = orjson.dumps({"responses": self.count, "last_id": last_id}).decode()
        self._writer.add_key_value_metadata({"holdfast.manifest": manifest})
        await asyncio.to_thread(self._writer.close)

    async def _flush(self) -> None:
        """Compress in a thread: nobody else waits for that."""
        if self._waiting:
            await asyncio.to_thread(self._write, self._waiting)
        self._waiting, self._size = [], 0

    def _write(self, rows: list[dict[str, Any]]) -> None:
        table = self._arrow.arrow.Table.from_pylist(rows, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(rows))


class Passing(io.RawIOBase):
    """A file that only remembers what is to be passed on."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting = list[bytes]()
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._waiting.append(bytes(data))
        self._size += len(self._waiting[-1])
        return len(self._waiting[-1])

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        """What was written since the last time."""
        waiting, self._waiting = self._waiting, []
        return b"".join(waiting)


async def stream(arrow: Arrow, db: Database, caller: Caller, export: Export) -> AsyncGenerator[bytes]:
    """A Parquet file of an export's responses, a row group at a time."""
    sink = Passing()
    rows, last = Rows(arrow, export, sink), NOTHING
    async with aclosing(responses(db, caller, export)) as pages:
        async for page in pages:
            for each in page:
                await rows.add(each)
                last = each.stored.id
            if ready := sink.take():
                yield ready
    await rows.close(last)
    await end(db, caller, export, {"responses": rows.count, "bytes": sink.tell()})
    yield sink.take()


def row_of(each: Exported) -> dict[str, Any]:
    """What the columns say of a response; `response` is without its output, which has a column of its own."""
    stored = each.stored
    body: dict[str, Any] = orjson.loads(stored.body)
    usage, error = usage_of(body, None) if body.get("usage") else None, body.get("error") or {}
    return {
        "id": ids.response_id(stored.id),
        "created_at": datetime.fromtimestamp((stored.id.int >> 80) / 1000, UTC),
        "finished_at": each.how.finished_at,
        "model": _text(body.get("model")),
        "status": stored.status.wire,
        "background": Mode.BACKGROUND in stored.mode,
        "attempts": each.how.attempts,
        "user": _text(body.get("user")),
        "safety_identifier": _text(body.get("safety_identifier")),
        "previous_response_id": _text(body.get("previous_response_id")),
        "conversation": _text((body.get("conversation") or {}).get("id")),
        "error_code": _text(error.get("code")),
        "input_tokens": usage and usage.input_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "output_tokens": usage and usage.output_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "metadata": orjson.dumps(body.get("metadata") or {}).decode(),
        "response": without_output(stored.body).decode(),
        "input": f"[{stored.input_blob.decode()}]",
        "output": f"[{stored.output_blob.decode()}]",
    }


def _text(value: Any) -> str | None:
    """What an upstream has decided may be anything."""
    return value if isinstance(value, str) else None
