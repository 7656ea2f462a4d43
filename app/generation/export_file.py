"""An export as a file: written beside its name, taken up again where it broke off, and named when whole."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from app.domain.export import Chain, Export, NoCursor, Place, cursor_in, decode, given
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.generation import export, export_begin
from app.generation.export_check import Wrong
from app.generation.ledger import Ledger

SYNC_BYTES = 64 << 20
"""A power failure costs no more than this."""

Report = Callable[[Export, Place], None]
"""Told how far an export has come."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants what exported."""

    ledger: Ledger
    caller: Caller
    filters: Filters
    report: Report
    patience_seconds: float = 0
    """See `export_begin.begin`."""


class CannotExport(Exception):
    """Something about the place to write to is in the way. The message says what, in one line."""


@dataclass(slots=True)
class _Kept:
    """What of an earlier try can be gone on with."""

    cursor: str | None = None
    size: int = 0
    """Where the line of that cursor ends."""
    sha256: Any = None
    """Of everything up to there."""
    manifest: dict[str, Any] | None = None
    """The last line, if nothing is missing."""


async def write(order: Order, path: Path) -> dict[str, Any]:
    """Export to a file, or go on with what an earlier try has left, and give back its manifest.

    The same bytes come of it however often it was broken off.

    Raises:
        CannotExport: the file is there already, or what was left is of another export, or in use.
        Unavailable: Postgres went away; the same command goes on where this one was.
    """
    check_free(path)
    part = path.with_name(path.name + ".part")
    with locked(part) as file:
        kept = _kept(file, part, order)
        manifest = kept.manifest or await _write(order, file, kept)
        told = manifest | {"file": path.name, "file_bytes": kept.size, "sha256": kept.sha256.hexdigest()}
        finish(path, told)
    return told


async def begin(order: Order, form: str) -> tuple[Export, Chain]:
    """Begin an export as it was ordered."""
    return await export_begin.begin(
        order.ledger, order.caller, order.filters, form=form, patience_seconds=order.patience_seconds
    )


def check_free(path: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        CannotExport: something has this name, or its folder is missing.
    """
    if path.exists():
        raise CannotExport(f"{path} is there already: remove it, or name another file")
    if not path.parent.is_dir():
        raise CannotExport(f"there is no folder {path.parent}")


@contextmanager
def locked(path: Path) -> Generator[BinaryIO]:
    """A file to read and write that no other export has open; made where there is none.

    Raises:
        CannotExport: another one has it open, or it cannot be opened at all.
    """
    try:
        # Exports hold everything that was said: they are for their owner alone.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotExport(f"cannot write to {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotExport(f"another export is writing to {path}") from None
        yield file


def finish(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, then give a whole export its name: who finds that finds both."""
    write_whole(
        path.with_name(path.name + ".manifest.json"), orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
    )
    path.with_name(path.name + ".part").replace(path)
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """The hash of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, said: dict[str, Any]) -> None:
    """Compare a file with what its manifest says of it.

    Raises:
        Wrong: it is another file.
    """
    if not path.exists():
        raise Wrong(f"{path.name} is missing")
    found = {"file_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    for name, value in found.items():
        if said.get(name) != value:
            raise Wrong(f"the manifest says {said.get(name)} for '{name}' of {path.name}, and it is {value}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file: whoever sees it sees all of it, whatever fails."""
    aside = path.with_name(path.name + ".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data + b"\n")
        sync(file)
    aside.replace(path)


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_header(header: Any, part: Path, order: Order) -> None:
    """Refuse to go on with what belongs to another export.

    Raises:
        CannotExport: it is another tenant's, or of other filters.
    """
    if header.get("tenant") != order.caller.tenant_id or header.get("filters") != given(order.filters):
        raise CannotExport(
            f"{part} belongs to another export, of {orjson.dumps(header.get('filters')).decode()}: "
            "give the same tenant and filters to go on with it, or remove it"
        )


def _kept(file: BinaryIO, part: Path, order: Order) -> _Kept:
    """Read what an earlier try has left, up to the last cursor before which every byte is as it was."""
    sha256, chain = hashlib.sha256(), Chain(Place())
    kept = _Kept(sha256=sha256.copy())
    for number, line in enumerate(file):
        if not line.endswith(b"\n"):
            return kept
        if not number:
            check_header(_parsed(line), part, order)
        cursor, is_last = cursor_in(line), line.startswith(b'{"object":"export.manifest"')
        if cursor or is_last:
            chain.close()
        sha256.update(line)
        if is_last:
            manifest = _parsed(line)
            is_whole = manifest.get("chained_sha256") == chain.place.chain.hex()
            return _Kept(None, chain.place.size + len(line), sha256, manifest) if is_whole else kept
        if cursor is None:
            chain.add(line)
            continue
        if not _stands_at(cursor, chain.place, order):
            return kept
        chain.open(cursor)
        kept = _Kept(cursor, chain.place.size, sha256.copy())
    return kept


def _stands_at(cursor: str, place: Place, order: Order) -> bool:
    """Whether what stands before a cursor is what it was made of."""
    try:
        _, said = decode(cursor, order.caller.tenant_id, order.filters)
    except NoCursor:
        return False
    return (said.size, said.chain) == (place.size, place.chain)


async def _write(order: Order, file: BinaryIO, kept: _Kept) -> dict[str, Any]:
    """Write what is missing; `kept` has the size and the hash of all of it then."""
    ledger, caller, filters = order.ledger, order.caller, order.filters
    if kept.cursor:
        begun, chain = await export_begin.resume(ledger, caller, filters, kept.cursor)
    else:
        begun, chain = await begin(order, "jsonl")
    file.seek(kept.size)
    file.truncate()
    unsynced, last = 0, b""
    async with aclosing(export.lines(ledger.db, caller, begun, chain)) as said:
        async for last in said:
            file.write(last)
            kept.sha256.update(last)
            kept.size, unsynced = kept.size + len(last), unsynced + len(last)
            if unsynced >= SYNC_BYTES:
                sync(file)
                unsynced = 0
            order.report(begun, chain.place)
    sync(file)
    return orjson.loads(last)


def _parsed(line: bytes) -> dict[str, Any]:
    """The object in a line; an empty one if that is not what it is."""
    try:
        said = orjson.loads(line)
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {}
