"""Exports as Parquet: read back by pyarrow, and the same whatever pages they were read in."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from pyarrow import parquet

from app import ids
from app.domain.export import Ending
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation import export, export_folder, export_parquet
from app.generation.export_check import Wrong
from app.generation.export_file import CannotExport, Order
from app.generation.export_parquet import Arrow
from app.store import responses
from app.store.db import Database
from tests.builders import a_response
from tests.exporting import SIGNER, Json, a_ledger, begun, objects
from tests.store.turns import add


async def streamed(db: Database, caller: Caller, **filters: Any) -> bytes:
    started, _ = await begun(db, caller, **filters)
    return b"".join([piece async for piece in export_parquet.stream(Arrow(), db, caller, started)])


def read(raw: bytes) -> tuple[list[Json], Any]:
    file = parquet.ParquetFile(io.BytesIO(raw))
    return file.read().to_pylist(), file.metadata


def order(db: Database, caller: Caller, **filters: Any) -> Order:
    return Order(a_ledger(db), caller, Filters(**filters), lambda *_: None)


async def some(db: Database, caller: Caller, count: int = 5) -> None:
    for n in range(count):
        await a_response(db, caller, params={"metadata": {"n": str(n)}, "user": f"u{n}"})


class TestStream:
    async def test_it_reads_back_as_what_was_stored(self, db: Database, caller: Caller) -> None:
        await some(db, caller)
        rows, metadata = read(await streamed(db, caller))
        assert [orjson.loads(row["metadata"])["n"] for row in rows] == [*"01234"]
        for row in rows:
            key = ids.parse_response_id(row["id"])
            assert key
            async with db.read(caller) as tx:
                stored = await responses.get(tx, key)
            assert stored
            whole = orjson.loads(stored.json())
            assert orjson.loads(row["output"]) == whole.pop("output")
            assert orjson.loads(row["response"]) == whole
            assert row["input"] == f"[{stored.input_blob.decode()}]"
            assert int(row["created_at"].timestamp()) == whole["created_at"]
            assert row["finished_at"] >= row["created_at"]
            assert (row["model"], row["status"], row["user"]) == (whole["model"], "completed", whole["user"])
            assert (row["input_tokens"], row["output_tokens"]) == (7, 2)
            assert (row["background"], row["attempts"], row["error_code"]) == (False, 0, None)
        assert orjson.loads(metadata.metadata[b"holdfast.export"])["filters"] == {}
        assert orjson.loads(metadata.metadata[b"holdfast.manifest"])["responses"] == 5

    async def test_an_empty_one_has_its_columns(self, db: Database, caller: Caller) -> None:
        rows, metadata = read(await streamed(db, caller))
        assert rows == []
        assert metadata.num_columns == 20

    async def test_row_groups_do_not_depend_on_pages(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export_parquet, "GROUP_ROWS", 3)
        await some(db, caller, 8)
        started, _ = await begun(db, caller)
        found = set[bytes]()
        for size in (1, 5, 100):
            monkeypatch.setattr(export, "FIRST_ROWS", size)
            pieces = [each async for each in export_parquet.stream(Arrow(), db, caller, started)]
            found.add(b"".join(pieces))
        [raw] = found
        metadata = read(raw)[1]
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [3, 3, 2]

    async def test_whatever_an_upstream_said_has_a_place(self, db: Database, caller: Caller) -> None:
        body = {"model": "m", "output": [], "parallel_tool_calls": True}
        odd = {"usage": {"input_tokens": "many", "output_tokens": 1e300}, "error": {"code": 7}}
        stored = await add(db, caller, body=orjson.dumps(odd | body))
        async with db.read(caller) as tx:
            found = await responses.get(tx, stored.id)
        assert found
        row = export_parquet.row_of(export.Exported(found, Ending(None, 0)))
        Arrow().arrow.Table.from_pylist([row], schema=Arrow().schema((await begun(db, caller))[0]))
        assert row["error_code"] is None

    def test_without_pyarrow_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(InvalidRequest, match=r"pip install 'holdfast\[parquet\]'"):
            Arrow()


class Broken(Exception):
    pass


class TestFolder:
    async def test_it_has_parts_the_trail_and_a_manifest(
        self, db: Database, caller: Caller, tmp_path: Path
    ) -> None:
        await some(db, caller)
        folder = tmp_path / "out"
        manifest = await export_folder.write(order(db, caller), folder, part_rows=2)
        assert sorted(path.name for path in folder.iterdir()) == [
            "audit.jsonl", "header.json", "manifest.json",
            "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
        ]  # fmt: skip
        parts = [parquet.read_table(folder / export_folder.part_name(n)).to_pylist() for n in range(3)]
        assert [[row["user"] for row in rows] for rows in parts] == [["u0", "u1"], ["u2", "u3"], ["u4"]]
        assert manifest["responses"] == 5
        assert manifest["audit_records"] == len(
            objects((folder / "audit.jsonl").read_bytes(), "audit.record")
        )
        assert export_folder.verify(folder, trusted=SIGNER.trusted).signed == 1

    @pytest.mark.parametrize("count", [0, 4])
    async def test_there_is_always_one_part_and_never_an_empty_one_more(
        self, db: Database, caller: Caller, tmp_path: Path, count: int
    ) -> None:
        await some(db, caller, count)
        await export_folder.write(order(db, caller), tmp_path / "out", part_rows=2)
        assert len([*(tmp_path / "out").glob("part-*")]) == max(1, count // 2)

    @pytest.mark.parametrize("survived", range(4))
    async def test_broken_off_it_goes_on_with_the_first_part_that_is_missing(
        self, db: Database, caller: Caller, tmp_path: Path, survived: int
    ) -> None:
        await some(db, caller, 7)
        whole, folder = tmp_path / "whole", tmp_path / "out"
        await export_folder.write(order(db, caller), whole, part_rows=2)
        folder.mkdir()
        (folder / "header.json").write_bytes((whole / "header.json").read_bytes())
        (folder / "part-00003.parquet.part").write_bytes(b"half a part")

        def report(*_: object) -> None:
            if len([*folder.glob("part-*.parquet")]) == survived:
                raise Broken

        interrupted = Order(a_ledger(db), caller, Filters(), report)
        with suppress(Broken):
            await export_folder.write(interrupted, folder, part_rows=2)
        assert len([*folder.glob("part-*.parquet")]) == (survived or 4)
        await some(db, caller, 2)
        if survived in {1, 2, 3}:
            await export_folder.write(order(db, caller), folder, part_rows=2)
        for path in whole.iterdir():
            assert (folder / path.name).read_bytes() == path.read_bytes()

    async def test_what_is_in_the_way_is_told(self, db: Database, caller: Caller, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(CannotExport, match="has other things in it"):
            await export_folder.write(order(db, caller), tmp_path)
        await export_folder.write(order(db, caller), tmp_path / "out")
        with pytest.raises(CannotExport, match="is there already"):
            await export_folder.write(order(db, caller), tmp_path / "out")
        (tmp_path / "out" / "manifest.json").unlink()
        with pytest.raises(CannotExport, match="belongs to another export"):
            await export_folder.write(order(db, caller, model="x"), tmp_path / "out")
        with pytest.raises(CannotExport, match="cannot make the folder"):
            await export_folder.write(order(db, caller), tmp_path / "no" / "where")

    async def test_every_changed_file_is_named(self, db: Database, caller: Caller, tmp_path: Path) -> None:
        await some(db, caller, 2)
        folder = tmp_path / "out"
        await export_folder.write(order(db, caller), folder)
        for name in ("part-00000.parquet", "audit.jsonl"):
            path = folder / name
            raw = path.read_bytes()
            path.write_bytes(raw[:-1] + b"?")
            with pytest.raises(Wrong, match=name):
                export_folder.verify(folder, trusted=())
            path.unlink()
            with pytest.raises(Wrong, match=f"{name} is missing"):
                export_folder.verify(folder, trusted=())
            path.write_bytes(raw)
        (folder / "manifest.json").write_text("{}")
        with pytest.raises(Wrong, match="its manifest cannot be read"):
            export_folder.verify(folder, trusted=())
        (folder / "manifest.json").unlink()
        with pytest.raises(Wrong, match="it is not whole"):
            export_folder.verify(folder, trusted=())
