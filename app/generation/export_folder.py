"""An export as a folder of Parquet files, each of so many rows, and the trail beside them."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import orjson

from app import ids
from app.domain.export import Export, NoCursor, Place, decode, encode
from app.domain.export_lines import header_object
from app.generation import export, export_check
from app.generation.export import Exported
from app.generation.export_check import Verdict, Wrong
from app.generation.export_file import (
    CannotExport,
    Order,
    begin,
    check_header,
    check_sha256,
    locked,
    sha256_of,
    sync,
    sync_folder,
    write_whole,
)
from app.generation.export_parquet import Arrow, Rows

PART_ROWS = 50_000

HEADER, TRAIL, MANIFEST = "header.json", "audit.jsonl", "manifest.json"
_LOCK = ".lock"
_AT_FIRST = {_LOCK, f"{HEADER}.new"}
"""What a try that has not begun yet may leave."""


async def write(order: Order, folder: Path, *, part_rows: int = PART_ROWS) -> dict[str, Any]:
    """Export to a folder, or go on with the first file that an earlier try has not finished.

    Raises:
        CannotExport: it is there already, whole or of another export, or in use.
        InvalidRequest: pyarrow is not installed.
        Unavailable: Postgres went away; the same command goes on where this one was.
    """
    arrow = Arrow()
    if (folder / MANIFEST).exists():
        raise CannotExport(f"{folder} is there already: remove it, or name another folder")
    _make(folder)
    with locked(folder / _LOCK):
        begun = await _begun(order, folder)
        writing = _Writing(order, begun, folder, arrow, part_rows)
        rows = await writing.parts()
        await writing.trail()
        manifest = _manifest(begun, folder, rows)
        said = {"responses": rows, "files": len(manifest["files"])}
        await export.end(order.ledger.db, order.caller, begun, said)
        write_whole(folder / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    (folder / _LOCK).unlink()
    sync_folder(folder)
    return manifest


def verify(folder: Path, *, trusted: Collection[bytes]) -> Verdict:
    """Compare all files with the manifest, and read the trail.

    Raises:
        Wrong: something is missing, or not what it was.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise Wrong("it has no manifest: it is not whole")
    try:
        manifest: dict[str, Any] = orjson.loads(path.read_bytes())
        for each in manifest["files"]:
            check_sha256(folder / Path(each["file"]).name, each)
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise Wrong(f"its manifest cannot be read: {error}") from error
    with (folder / TRAIL).open("rb") as file:
        verdict = export_check.verify(file, trusted=trusted)
    verdict.responses = manifest["responses"]
    return verdict


def part_name(number: int) -> str:
    return f"part-{number:05}.parquet"


class _Writing:
    """The files of one export as they come to be. One that has its name is whole."""

    def __init__(self, order: Order, begun: Export, folder: Path, arrow: Arrow, part_rows: int) -> None:
        self._db, self._caller, self._report = order.ledger.db, order.caller, order.report
        self._begun, self._folder, self._arrow, self._part_rows = begun, folder, arrow, part_rows

    async def parts(self) -> int:
        """Write the parts that are missing; how many rows all of them have."""
        number, place = self._kept()
        if number and place.responses < number * self._part_rows:
            return place.responses
        found = export.responses(self._db, self._caller, self._begun, after=place.response)
        part: _Part | None = None
        async with aclosing(found) as pages:
            async for each in _each(pages):
                part = part or self._part(number)
                await part.rows.add(each)
                place.response, place.responses = each.stored.id, place.responses + 1
                if part.rows.count == self._part_rows:
                    await part.finish(each.stored.id)
                    self._report(self._begun, place)
                    number, part = number + 1, None
                elif not place.responses % 1000:
                    self._report(self._begun, place)
        if part or not number:
            await (part or self._part(number)).finish(place.response)
        return place.responses

    async def trail(self) -> None:
        """Write the segment of the trail, as lines."""
        aside = self._folder / f"{TRAIL}.part"
        with locked(aside) as file:
            file.truncate()
            async with aclosing(export.trail_lines(self._db, self._caller, self._begun)) as said:
                async for lines in said:
                    file.write(lines)
            sync(file)
        aside.replace(self._folder / TRAIL)

    def _kept(self) -> tuple[int, Place]:
        """How many parts there are already, and the place behind them."""
        number, place = 0, Place()
        while (path := self._folder / part_name(number)).exists():
            said = self._arrow.parquet.read_metadata(path).metadata[b"holdfast.manifest"]
            told: dict[str, Any] = orjson.loads(said)
            place.responses += told["responses"]
            place.response = ids.parse_response_id(told["last_id"] or "") or place.response
            number += 1
        return number, place

    def _part(self, number: int) -> "_Part":
        return _Part(self._arrow, self._begun, self._folder / part_name(number))


class _Part:
    """One Parquet file, under another name until it is whole."""

    def __init__(self, arrow: Arrow, begun: Export, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.with_name(path.name + ".part").open("wb")
        self.rows = Rows(arrow, begun, self._file)

    async def finish(self, last: UUID) -> None:
        await self.rows.close(last)
        sync(self._file)
        self._file.close()
        self._path.with_name(self._path.name + ".part").replace(self._path)


async def _each(pages: AsyncGenerator[list[Exported]]) -> AsyncGenerator[Exported]:
    async for page in pages:
        for each in page:
            yield each


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CannotExport(f"cannot make the folder {folder}: {error.strerror}") from error
    if not (folder / HEADER).exists() and any(path.name not in _AT_FIRST for path in folder.iterdir()):
        raise CannotExport(f"{folder} has other things in it: name a folder that is not there yet")


async def _begun(order: Order, folder: Path) -> Export:
    """The export that the folder is of; a new one where it is of none yet."""
    path = folder / HEADER
    if path.exists():
        header: dict[str, Any] = orjson.loads(path.read_bytes())
        check_header(header, folder, order)
        try:
            begun, _ = decode(header["cursor"], order.caller.tenant_id, order.filters)
        except NoCursor as error:
            raise CannotExport(f"{path} was changed: {error}") from error
        return begun
    begun, chain = await begin(order, "parquet")
    header = header_object(begun) | {"cursor": encode(begun, chain.place)}
    write_whole(path, orjson.dumps(header, option=orjson.OPT_INDENT_2))
    return begun


def _manifest(begun: Export, folder: Path, rows: int) -> dict[str, Any]:
    """What the folder has: each file with its size and its hash."""
    files = [*sorted(folder.glob("part-*.parquet")), folder / TRAIL]
    return {
        "object": "export.manifest",
        "id": begun.name,
        "responses": rows,
        "audit_records": begun.bounds.audit_until.seq - begun.bounds.audit_after.seq,
        "files": [
            {"file": path.name, "file_bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        ],
    }
