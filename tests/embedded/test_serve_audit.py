"""The audit trail of a `holdfast serve`, whose database and seal key are its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app import cli
from app.settings import environment
from tests.embedded.processes import serving
from tests.waiting import PATIENCE_SECONDS, wait_until

Run = Callable[..., tuple[object, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], used_state_dir: Path) -> Run:
    """`holdfast audit` of that server, here: each process of its own would take a second to start."""
    for name in environment():
        if name.startswith(("HOLDFAST_", "OPENAI_")):
            monkeypatch.delenv(name)

    def run(*words: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["holdfast", "audit", *words, "--state-dir", str(used_state_dir)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().out

    return run


def listed(run: Run, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("list", "--json", "--oldest-first", *words)[1].splitlines()]


def test_it_is_kept_and_verified_while_it_runs(run: Run, used_state_dir: Path) -> None:
    """The worker gives each note its place by itself."""
    with serving(used_state_dir) as serve:
        body = {"model": "offline", "input": "hi"}
        assert (
            httpx2.post(f"{serve.base}/v1/responses", json=body, timeout=PATIENCE_SECONDS).status_code == 200
        )
        wait_until(lambda: listed(run))
        assert [record["action"] for record in listed(run)] == ["response.created"]
        code, told = run("verify", "--contents")
        assert code == 0
        assert "tenant default: 1 records are as they were written; signed for up to record 0" in told
        assert len(bytes.fromhex(run("public-key")[1])) == 32


def test_its_settings_are_news_once(run: Run, used_state_dir: Path) -> None:
    """Though its servers are started anew each time, and the API and the worker both tell of them."""
    for _ in range(2):
        with serving(used_state_dir):
            wait_until(lambda: len(listed(run, "--server")) >= 2)
            found = listed(run, "--server")
            assert sorted(json.loads(record["data"])["process"] for record in found) == ["api", "worker"]


def test_without_one_that_runs_nothing_is_told(run: Run) -> None:
    assert run("verify") == (1, "")
