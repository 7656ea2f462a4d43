"""`holdfast prompt`: templates kept from files, listed and shown."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import ids
from tests.commands import Run, forget_settings, runner
from tests.keys import new_key

TEMPLATE = {"model": "offline", "instructions": "Be {{how}}."}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, quiet_database_url: str) -> None:
    forget_settings(monkeypatch)
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", quiet_database_url)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys, "prompt")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Any], str]:
    def write(template: Any) -> str:
        path = tmp_path / "template.json"
        path.write_text(template if isinstance(template, str) else json.dumps(template))
        return str(path)

    return write


Write = Callable[[Any], str]


def put(run: Run, *words: str) -> tuple[str, str]:
    code, out, err = run("put", *words)
    assert code == 0, err
    name, _, version = out.strip().partition(" ")
    return name, version


def shown(run: Run, *words: str) -> dict[str, Any]:
    code, out, err = run("show", *words)
    assert code == 0, err
    return json.loads(out)


def test_a_file_is_a_new_prompt_or_a_new_version(run: Run, file: Write) -> None:
    name, version = put(run, file(TEMPLATE), "--name", "greeting")
    assert (bool(ids.parse_prompt_id(name)), version) == (True, "1")
    assert put(run, file({**TEMPLATE, "temperature": 0}), "--id", name) == (name, "2")
    seen = shown(run, name)
    assert (seen["name"], seen["default_version"], seen["version"]["variables"]) == ("greeting", "2", ["how"])
    assert shown(run, name, "--version", "1", "--template") == TEMPLATE


def test_the_same_file_makes_no_version(run: Run, file: Write) -> None:
    name, _ = put(run, file(TEMPLATE), "--id", f"pmpt_{ids.new_uuid().hex}")
    assert put(run, file(TEMPLATE), "--id", name) == (name, "1")


def test_the_standard_input_is_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(TEMPLATE).encode())))
    assert put(run, "-")[1] == "1"


def test_a_version_is_pinned_and_let_go(run: Run, file: Write) -> None:
    name, _ = put(run, file(TEMPLATE), "--pin")
    put(run, file({}), "--id", name)
    assert shown(run, name)["default_version"] == "1"
    [line] = [line for line in run("list")[1].splitlines() if line.startswith(name)]
    assert line.endswith("pinned")
    put(run, file({}), "--id", name, "--unpin")
    assert shown(run, name)["default_version"] == "2"


def test_each_tenant_has_its_own(run: Run, file: Write, quiet_database_url: str) -> None:
    code, _, err = run("put", file(TEMPLATE), "--tenant", "nobody")
    assert (code, err) == (2, "holdfast: there is no tenant 'nobody': `holdfast key create` makes one\n")
    asyncio.run(new_key(quiet_database_url, "acme"))
    name, _ = put(run, file(TEMPLATE), "--tenant", "acme")
    assert name in run("list", "--tenant", "acme")[1]
    assert name not in run("list")[1]
    assert run("show", name)[2] == f"holdfast: Prompt with id '{name}' not found.\n"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{", "is no template: Invalid body: failed to parse JSON value."),
        ([], "is no template: Invalid type for the body"),
        ({"temperature": 3}, "Invalid 'template.temperature'"),
        ({"store": True}, "Unknown parameter: 'template.store'"),
        (
            {"tools": [{"type": "mcp", "server_label": "m", "server_url": "https://m.test", "authorization": "t"}]},
            "Unsupported parameter: 'template.tools[0].authorization'",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(run: Run, file: Write, template: Any, told: str) -> None:
    code, out, err = run("put", file(template))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


@pytest.mark.parametrize("words", [["--id", "x"], ["--id", "pmpt_" + "a" * 60], ["--name", "\x1b[31m"]])
def test_a_wrong_option_is_one_line(run: Run, file: Write, words: list[str]) -> None:
    code, out, err = run("put", file(TEMPLATE), *words)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_file_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("put", str(tmp_path / "none.json"))
    assert code == 2
    assert err.endswith("cannot be read: No such file or directory\n")
