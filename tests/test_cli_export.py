"""`holdfast export`: files that are whole or have another name, whatever happens on the way."""

import asyncio
import fcntl
import hashlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from app import cli
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.generation import export_file
from app.generation.export_file import CannotExport, Order
from app.generation.ledger import Ledger
from app.store import tenants
from app.store.db import Database, SystemTx
from tests.builders import a_response
from tests.commands import Run, forget_settings, runner
from tests.exporting import kept, names, objects
from tests.keys import in_system
from tests.store.turns import add

KEY = "c2VjcmV0" * 5 + "c2U="
"""32 bytes in base64."""

DYING = """
import os, signal, sys
from contextlib import contextmanager
from app import cli, cli_export

left = int(sys.argv.pop(1))

def report(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

@contextmanager
def progress():
    yield report

cli_export._progress = progress
cli.main()
"""
"""The command, which dies at once when it has written so many pages."""

OUT = ["--tenant", "default", "--output", "out"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, quiet_database_url: str) -> None:
    forget_settings(monkeypatch)
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", quiet_database_url)
    # Nobody else settles here.
    monkeypatch.setattr("app.cli_export.PATIENCE_SECONDS", 0.0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys, "export")


@pytest.fixture
def tenant(request: pytest.FixtureRequest, quiet_database_url: str) -> str:
    """A tenant with five responses, named as the test is."""
    name = request.node.name

    async def fill(db: Database, caller: Caller) -> None:
        for n in range(5):
            await a_response(db, caller, params={"metadata": {"n": str(n % 2)}})

    asyncio.run(filled(quiet_database_url, name, fill))
    return name


async def filled(database_url: str, name: str, fill: Callable[..., object]) -> Caller:
    async def make(tx: SystemTx) -> int:
        return await tenants.find_or_create(tx, name)

    caller = Caller(await in_system(database_url, make))
    db = await Database.connect(database_url, size=1)
    try:
        await fill(db, caller)  # type: ignore[misc]
    finally:
        await db.close()
    return caller


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestExport:
    def test_it_says_how_much_and_what_its_hash_is(self, run: Run, tenant: str, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        code, out, err = run("--tenant", tenant, "--output", path)
        assert (code, err) == (0, "")
        assert out == f"5 responses and 5 audit records in {path}.\nSHA-256 {sha256(path)}\n"
        manifest = orjson.loads((tmp_path / "out.jsonl.manifest.json").read_bytes())
        assert manifest["sha256"] == sha256(path)
        assert manifest["file_bytes"] == path.stat().st_size
        assert sorted(each.name for each in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.manifest.json"]
        assert path.stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize(
        ("words", "count"),
        [
            (["--metadata", "n=1"], 2),
            (["--metadata", "n=1", "--metadata", "m="], 0),
            (["--status", "completed", "--foreground", "--model", "a-model-1"], 5),
            (["--background"], 0),
            (["--created-after", "2020-01-01", "--created-before", "2020-01-02T00:00:00+01:00"], 0),
            (["--query", "hello"], 5),
            (["--root", "resp_" + "0" * 32], 0),
            (["--conversation", "conv_" + "0" * 32, "--has-attempts-over", "1"], 0),
        ],
    )
    def test_filters_are_those_of_the_list(
        self, run: Run, tenant: str, tmp_path: Path, words: list[str], count: int
    ) -> None:
        path = tmp_path / "out"
        assert run("--tenant", tenant, "--output", path, *words)[0] == 0
        assert len(names(path.read_bytes())) == count
        assert objects(path.read_bytes())[0]["filters"] != {}

    def test_as_parquet_it_is_a_folder(self, run: Run, tenant: str, tmp_path: Path) -> None:
        path = tmp_path / "out"
        code, out, _ = run("--tenant", tenant, "--output", path, "--format", "parquet")
        assert code == 0
        assert f"SHA-256 {sha256(path / 'part-00000.parquet')}  part-00000.parquet\n" in out
        code, out, _ = run("verify", path)
        assert code == 0
        assert out.startswith(f"{path} is what it was: 5 responses and 5 audit records.\n")


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], "say whose responses"),
            (["--tenant", "default"], "say whose responses"),
            (["--output", "out"], "say whose responses"),
            ([*OUT, "--tenant", "nobody"], "there is no tenant 'nobody'"),
            ([*OUT, "--created-after", "soon"], "created-after"),
            ([*OUT, "--conversation", "resp_1"], "--conversation: nothing can have the id 'resp_1'"),
            ([*OUT, "--metadata", "n"], "--metadata: expected KEY=VALUE"),
            ([*OUT, "--user", "\udcff"], "no UTF-8 text"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, run: Run, words: list[str], told: str) -> None:
        code, _, err = run(*words)
        assert code == 2
        assert told in err
        assert err.count("\n") == 1

    def test_nothing_is_written_over(self, run: Run, tenant: str, tmp_path: Path) -> None:
        path = tmp_path / "out"
        path.write_text("mine")
        code, _, err = run("--tenant", tenant, "--output", path)
        assert (code, path.read_text()) == (2, "mine")
        assert f"{path} is there already" in err
        code, _, err = run("--tenant", tenant, "--output", tmp_path / "no" / "where")
        assert "there is no folder" in err

    def test_what_is_left_of_another_export_is_not_gone_on_with(
        self, run: Run, tenant: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "out"
        run("--tenant", tenant, "--output", path, "--model", "a-model-1")
        path.rename(tmp_path / "out.part")
        before = (tmp_path / "out.part").read_bytes()
        code, _, err = run("--tenant", tenant, "--output", path)
        assert code == 2
        assert 'belongs to another export, of {"model":"a-model-1"}' in err
        assert (tmp_path / "out.part").read_bytes() == before

    def test_two_at_once_do_not_write_to_one_file(self, run: Run, tenant: str, tmp_path: Path) -> None:
        with (tmp_path / "out.part").open("wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            code, _, err = run("--tenant", tenant, "--output", tmp_path / "out")
        assert code == 2
        assert "another export is writing to" in err


class TestResuming:
    def test_whatever_is_left_the_same_comes_of_it(self, run: Run, tenant: str, tmp_path: Path) -> None:
        """Cut off at any line or in the middle of one, or with its tail overwritten, as a power cut leaves it."""
        whole, path = tmp_path / "whole", tmp_path / "out"
        run("--tenant", tenant, "--output", whole)
        raw = whole.read_bytes()
        second = raw.index(b"\n", raw.index(b"\n") + 1) + 1
        cuts = [raw[:cut] for cut in (second, second + 1, len(raw) // 2, len(raw) - 1, len(raw))]
        torn = raw[: len(raw) // 2] + bytes(5000) + raw[len(raw) // 2 + 5000 :]
        for left in [*cuts, torn, raw[:-9] + b"\0" * 8 + b"\n", raw[:second] + b"junk\n"]:
            (tmp_path / "out.part").write_bytes(left)
            code, out, err = run("--tenant", tenant, "--output", path)
            assert code == 0, err
            assert sha256(path) == sha256(whole)
            assert sha256(whole) in out
            path.unlink()

    def test_what_breaks_off_in_its_header_begins_anew(self, run: Run, tenant: str, tmp_path: Path) -> None:
        (tmp_path / "out.part").write_bytes(b'{"object":"export","form')
        assert run("--tenant", tenant, "--output", tmp_path / "out")[0] == 0
        assert run("verify", tmp_path / "out")[0] == 0

    def test_killed_again_and_again_it_is_the_same_as_undisturbed(
        self, run: Run, quiet_database_url: str, tmp_path: Path
    ) -> None:
        async def fill(db: Database, caller: Caller) -> None:
            for _ in range(700):
                await add(db, caller)

        asyncio.run(filled(quiet_database_url, "killed", fill))
        whole, path, part = tmp_path / "whole", tmp_path / "out", tmp_path / "out.part"
        assert run("--tenant", "killed", "--output", whole)[0] == 0
        first, _ = kept(b"".join(whole.read_bytes().splitlines(keepends=True)[:2]))
        part.write_bytes(first)
        sizes = [len(first)]
        for pages in (5, 6):
            words = ["export", "--tenant", "killed", "--output", str(path)]
            ended = subprocess.run([sys.executable, "-c", DYING, str(pages), *words], check=False)
            assert ended.returncode == -signal.SIGKILL
            sizes.append(part.stat().st_size)
        assert sizes == sorted(set(sizes))
        assert not path.exists()
        assert run("--tenant", "killed", "--output", path)[0] == 0
        assert sha256(path) == sha256(whole)


class TestVerify:
    @pytest.fixture
    def path(self, run: Run, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOLDFAST_SEAL_KEY", KEY)
        run("--tenant", tenant, "--output", tmp_path / "out")
        # It needs no database.
        monkeypatch.delenv("HOLDFAST_DATABASE_URL")
        return tmp_path / "out"

    def test_what_is_right_is_told(
        self, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["holdfast", "audit", "public-key"])
        with pytest.raises(SystemExit):
            cli.main()
        key = capsys.readouterr().out.strip()
        code, out, _ = run("verify", path, "--public-key", key)
        assert code == 0
        assert out == (
            f"{path} is what it was: 5 responses and 5 audit records.\n"
            "5 of the responses are proven by the trail to be what was stored.\n"
            "Signed up to record 5 of 5.\n"
        )
        code, out, _ = run("verify", path, "--public-key", "00" * 32)
        assert "Signed up to record 0 of 5.\n" in out

    def test_what_is_wrong_is_one_line(self, run: Run, path: Path) -> None:
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"world", b"earth", 1))
        code, _, err = run("verify", path)
        assert code == 1
        assert re.fullmatch(r"holdfast: \S+: the manifest says \S+ for 'sha256' of out, and it is \S+\n", err)
        path.with_name("out.manifest.json").unlink()
        code, _, err = run("verify", path)
        assert code == 1
        assert re.fullmatch(r"holdfast: \S+: line 14: the manifest says .*\n", err)

    @pytest.mark.parametrize(
        "words", [["nowhere"], ["out", "--public-key", "xyz"], ["out", "--public-key", "00"]]
    )
    def test_what_cannot_be_looked_at_is_one_line(self, run: Run, path: Path, words: list[str]) -> None:
        code, out, err = run("verify", path.with_name(words[0]), *words[1:])
        assert code in {1, 2}
        assert (out, err.count("\n")) == ("", 1)


async def test_a_manifest_of_nothing_is_not_taken_for_the_end(
    quiet_database_url: str, tmp_path: Path
) -> None:
    db = await Database.connect(quiet_database_url, size=1)
    order = Order(Ledger(db), Caller(), Filters(), lambda *_: None)
    (tmp_path / "out.part").write_bytes(b'{"object":"export.manifest"}\n')
    with pytest.raises(CannotExport, match="belongs to another export"):
        await export_file.write(order, tmp_path / "out")
    await db.close()
