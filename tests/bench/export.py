"""What exporting costs, whether it is the same when killed on the way, and what memory it takes.

    python -m tests.bench.export [--responses 100000] [--kills 5]

A durable embedded Postgres of its own is filled by COPY: responses as `search_rows` makes them, and a trail
with a record and a digest of each. They are exported by the command and over HTTP, undisturbed, and from the
same beginning killed again and again; the hashes have to be equal. Memory is the resident set of the process
that exports, watched all the while.
"""

import argparse
import asyncio
import base64
import hashlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil

from app.domain.audit import Action, Checkpoint, Head, Note, Record, chain, content_digest
from app.domain.signing import Signer
from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from app.store.codec import decompress
from tests.bench.search_rows import _COLUMNS, Maker
from tests.exporting import kept
from tests.live import LiveServer

CHUNK = 10_000
TENANT = "default"
SEAL_KEY = bytes(range(32))
MIB = 1 << 20
_RECORD = ("tenant_id", "seq", "at", "subject", "key_id", "action", "digest", "previous_hash", "hash", "data")
_CHECKPOINT = ("tenant_id", "seq", "at", "hash", "public_key", "signature")


@dataclass
class Watched:
    """The memory of one process while a file grows, or while bytes arrive."""

    name: str
    seconds: float = 0
    size: int = 0
    samples: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Bytes that there were, and the resident set then."""

    def note(self, size: int, process: psutil.Process) -> None:
        self.size = size
        try:
            self.samples.append((size, process.memory_info().rss))
        except psutil.Error:
            return

    def at(self, share: float) -> float:
        """MiB when this share of the bytes was there."""
        wanted = share * self.size
        return min(self.samples, key=lambda sample: abs(sample[0] - wanted))[1] / MIB

    def row(self, responses: int) -> str:
        most = max(rss for _, rss in self.samples) / MIB
        memory = " | ".join(f"{each:.0f}" for each in (self.at(0.02), self.at(0.5), self.at(0.98), most))
        rate = responses / self.seconds
        return f"| {self.name} | {self.seconds:.1f} | {rate:,.0f} | {self.size / MIB:.0f} | {memory} |"


async def load(url: str, count: int) -> None:
    """Fill the tenant of a server without keys: its responses, its trail, and where that ends."""
    connection: Any = await asyncpg.connect(url)
    tenant_id = await connection.fetchval("select id from tenants where name = $1", TENANT)
    rows = Maker(count, (tenant_id, tenant_id), 7).rows()
    head, signer = Head(), Signer(SEAL_KEY)
    while found := list(itertools.islice(rows, CHUNK)):
        values = [tuple(row[name] for name in _COLUMNS) for row in found]
        await connection.copy_records_to_table("responses", columns=_COLUMNS, records=values)
        records = list(chain(tenant_id, head, map(note_of, found)))
        await connection.copy_records_to_table(
            "audit_records", columns=_RECORD, records=[values_of(each) for each in records]
        )
        await connection.copy_records_to_table(
            "audit_checkpoints",
            columns=_CHECKPOINT,
            records=[vouched(each, signer) for each in records[999::1000]],
        )
        head = Head(records[-1].seq, records[-1].hash)
    await connection.execute(
        "insert into audit_heads (tenant_id, seq, checkpoint_seq, checkpoint_at, hash) values ($1, $2, $3, now(), $4)",
        tenant_id, head.seq, head.seq // 1000 * 1000, head.hash,
    )  # fmt: skip
    await connection.execute("vacuum (analyze)")
    await connection.close()


def note_of(row: Mapping[str, Any]) -> Note:
    digest = content_digest(*(decompress(row[name], row["codec"]) for name in ("body", "items")))
    at = datetime.fromtimestamp((row["id"].int >> 80) / 1000, UTC)
    return Note(at, Action.RESPONSE_CREATED, None, row["id"], digest, "{}")


def values_of(record: Record) -> tuple[Any, ...]:
    note = record.note
    return (
        record.tenant_id, record.seq, note.at, note.subject, note.key_id, int(note.action), note.digest,
        record.previous_hash, record.hash, note.data,
    )  # fmt: skip


def vouched(record: Record, signer: Signer) -> tuple[Any, ...]:
    at = record.note.at + timedelta(seconds=1)
    signed = signer.signed(record.tenant_id, Checkpoint(record.seq, at, record.hash))
    return record.tenant_id, signed.seq, at, signed.hash, signed.public_key, signed.signature


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "app.cli", "export", *map(str, words)]


def run(environment: Mapping[str, str], name: str, size: Callable[[], int], *words: object) -> Watched:
    """A whole run of the command."""
    watched, began = Watched(name), time.perf_counter()
    with subprocess.Popen(command(*words), env=environment, stdout=subprocess.DEVNULL) as process:
        memory = psutil.Process(process.pid)
        while process.poll() is None:
            watched.note(max(watched.size, size()), memory)
            time.sleep(0.01)
    assert process.returncode == 0
    watched.seconds = time.perf_counter() - began
    return watched


def killed(environment: Mapping[str, str], path: Path, wanted: int) -> None:
    """A run that is killed once its file has so many bytes."""
    part = path.with_name(path.name + ".part")
    words = command("--tenant", TENANT, "--output", path)
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and size_of(part) < wanted:
            time.sleep(0.001)
        process.kill()
    print(f"killed at {size_of(part) / MIB:.1f} MiB")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def beginning(path: Path) -> tuple[bytes, str]:
    """The header of an export and its first cursor: from there on every other has to be the same."""
    with path.open("rb") as file:
        return kept(b"".join(itertools.islice(file, 2)))


def download(server: LiveServer, name: str, path: Path, cuts: Sequence[int] = (), **query: str) -> Watched:
    """Fetch into a file, hanging up whenever it has grown to one of `cuts`, and going on behind its last cursor."""
    watched, began = Watched(name), time.perf_counter()
    with httpx2.Client(base_url=server.base_url, timeout=60) as client:
        for until in cuts:
            fetch(client, path, query, watched, psutil.Process(server.pid), until)
            query["resume"] = cut(path)
        fetch(client, path, query, watched, psutil.Process(server.pid), sys.maxsize)
    watched.seconds = time.perf_counter() - began
    return watched


def fetch(
    client: httpx2.Client,
    path: Path,
    query: Mapping[str, str],
    watched: Watched,
    memory: psutil.Process,
    until: int,
) -> None:
    """Append to a file until it has so many bytes, or all there are."""
    size = size_of(path)
    with client.stream("GET", "/responses/export", params=query) as answer, path.open("ab") as file:
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            size += file.write(piece)
            watched.note(size, memory)
            if size >= until:
                return


def cut(path: Path) -> str:
    """Cut a file off behind its last cursor."""
    with path.open("r+b") as file:
        start = max(0, path.stat().st_size - 16 * MIB)
        file.seek(start)
        before, cursor = kept(file.read())
        file.truncate(start + len(before))
    return cursor


def measure(url: str, count: int, kills: int, folder: Path) -> Iterator[str]:
    environment = {
        "HOLDFAST_DATABASE_URL": url,
        "HOLDFAST_SEAL_KEY": base64.b64encode(SEAL_KEY).decode(),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    whole, broken, fetched = folder / "whole", folder / "broken", folder / "fetched"
    part = folder / "whole.part"
    watched = run(environment, "command, jsonl", lambda: size_of(part), "--tenant", TENANT, "--output", whole)
    yield watched.row(count)
    first, cursor = beginning(whole)
    broken.with_name("broken.part").write_bytes(first)
    for kill in range(1, kills + 1):
        killed(environment, broken, kill * whole.stat().st_size // (kills + 1))
    part = folder / "broken.part"
    last = run(
        environment, "command, the rest", lambda: size_of(part), "--tenant", TENANT, "--output", broken
    )
    assert sha256(whole) == sha256(broken), "killed and resumed it is another file"
    print(f"killed {kills} times and resumed: SHA-256 {sha256(broken)}, as undisturbed; {last.seconds:.1f} s")
    began = time.perf_counter()
    key = Signer(SEAL_KEY).public_key or b""
    print(
        subprocess.check_output(
            command("verify", whole, "--public-key", key.hex()), env=environment, text=True
        )
    )
    print(f"verified in {time.perf_counter() - began:.1f} s")
    yield from over_http(url, count, whole, fetched, first, cursor)
    target = folder / "parquet"
    words = ("--tenant", TENANT, "--output", target, "--format", "parquet")
    yield run(environment, "command, parquet", lambda: sum(map(size_of, target.glob("part-*"))), *words).row(
        count
    )


def over_http(url: str, count: int, whole: Path, fetched: Path, first: bytes, cursor: str) -> Iterator[str]:
    with LiveServer(url) as server:
        size = whole.stat().st_size
        for name, cuts in (
            ("HTTP, jsonl", []),
            ("HTTP, jsonl, cut 5 times", [size * each // 6 for each in range(1, 6)]),
        ):
            fetched.write_bytes(first)
            yield download(server, name, fetched, cuts, resume=cursor).row(count)
            assert sha256(fetched) == sha256(whole), f"{name} is another file"
            print(f"{name}: SHA-256 {sha256(fetched)}, as by the command")
        parquet = fetched.with_name("fetched.parquet")
        yield download(server, "HTTP, parquet", parquet, format="parquet").row(count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        # Root's server runs as another user, who must be able to reach the folder.
        folder = Path(name)
        folder.chmod(0o711)
        with EmbeddedPostgres(folder / "state") as postgres:
            migrate.upgrade(postgres.url)
            url = postgres.url.replace("+asyncpg", "", 1)
            asyncio.run(load(url, arguments.responses))
            table = list(measure(url, arguments.responses, arguments.kills, folder))
    print(
        "\n| | s | responses/s | MiB | RSS at the start, MiB | middle | end | most |\n" + "| --- " * 8 + "|"
    )
    print("\n".join(table))


if __name__ == "__main__":
    main()
