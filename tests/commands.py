"""`holdfast` in the test's own process, with no settings but those of the test."""

from collections.abc import Callable

import pytest

from app import cli
from app.settings import environment

Run = Callable[..., tuple[object, str, str]]
"""What a command is given as words; its exit code, and what it has printed and complained of."""


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *beginning: str) -> Run:
    """Runs commands that begin with these words."""

    def run(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["holdfast", *beginning, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset whatever the environment says to us, and lay out help for a terminal of one width."""
    for name in environment():
        if name.startswith(("HOLDFAST_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
