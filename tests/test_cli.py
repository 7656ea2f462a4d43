import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import cli
from app.settings import Settings
from tests.commands import forget_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


class Result:
    """What a run of the command printed, and its exit code."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
    ) -> None:
        monkeypatch.setattr("sys.argv", ["holdfast", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.code = ended.value.code
        self.out, self.err = capsys.readouterr()


class TestHelp:
    @pytest.mark.parametrize("command", ["serve", "api", "migrate", "config"])
    def test_each_command_explains_itself(
        self, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        overview = Result(monkeypatch, capsys, "--help")
        assert overview.code == 0
        assert f" {command} " in overview.out
        detail = Result(monkeypatch, capsys, command, "--help")
        assert detail.code == 0
        assert "--config" in detail.out

    def test_serve_shows_its_defaults(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = Result(monkeypatch, capsys, "serve", "--help").out
        for words in ("127.0.0.1", "8000", "--state-dir", "--workers", "1"):
            assert words in shown

    def test_the_version_is_told(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert Result(monkeypatch, capsys, "--version").out == "holdfast 0.1.0\n"


class TestErrors:
    @pytest.mark.parametrize("command", ["api", "migrate"])
    def test_what_needs_a_database_says_so(
        self, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = Result(monkeypatch, capsys, command)
        assert result.code == 2
        assert result.err.startswith("holdfast: database_url is not set")

    @pytest.mark.parametrize("command", ["serve", "api", "migrate", "config"])
    def test_a_bad_setting_is_one_line_and_no_traceback(
        self,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        path = tmp_path / "holdfast.toml"
        path.write_text("pool_size = 0\n")
        result = Result(monkeypatch, capsys, command, "--config", str(path))
        assert result.code == 2
        assert result.err == f"holdfast: {path}: pool_size: Input should be greater than or equal to 1\n"

    def test_an_unknown_option_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = Result(monkeypatch, capsys, "serve", "--reload")
        assert result.code == 2
        assert "--reload" in result.err


class TestConfig:
    def show(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        monkeypatch.setattr("sys.argv", ["holdfast", "config", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in {0, None}
        return capsys.readouterr().out

    def test_what_it_prints_is_what_it_takes(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOLDFAST_POOL_SIZE", "9")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
        shown = self.show(monkeypatch, capsys)
        before = Settings.load()
        monkeypatch.delenv("HOLDFAST_POOL_SIZE")
        monkeypatch.delenv("OPENAI_BASE_URL")
        path = tmp_path / "holdfast.toml"
        path.write_text(shown)
        assert Settings.load(path) == before

    def test_secrets_are_masked(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("HOLDFAST_DATABASE_URL", "postgresql://me:hunter2@db:5432/app?password=hunter3")
        monkeypatch.setenv("HOLDFAST_BROKER_URL", "redis://:hunter4@redis:6379/0")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter5")
        shown = self.show(monkeypatch, capsys)
        assert "hunter" not in shown
        assert "# database_url = postgresql+asyncpg://me:********@db:5432/app\n" in shown
        assert "# broker_url = redis://:********@redis:6379/0\n" in shown
        assert "# api_key = ********\n" in shown

    def test_every_setting_is_there_with_its_reason(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = self.show(monkeypatch, capsys)
        values = tomllib.loads(shown)
        for name in Settings.model_fields:
            assert name in values or f"# {name} is not set" in shown
        assert shown.count("\n# ") >= len(Settings.model_fields)


class TestCompose:
    @pytest.fixture
    def services(self) -> dict[str, Any]:
        return yaml.safe_load((Path(__file__).parents[1] / "compose.yaml").read_text())["services"]

    def test_it_has_every_part_and_each_is_watched(self, services: dict[str, Any]) -> None:
        assert set(services) == {"api", "worker", "migrate", "postgres", "redis"}
        for name in set(services) - {"migrate"}:
            assert services[name]["healthcheck"]["test"], name

    def test_its_variables_are_settings(self, services: dict[str, Any]) -> None:
        known = {f"HOLDFAST_{name.upper()}" for name in Settings.model_fields}
        for name in ("api", "worker", "migrate"):
            given = {each for each in services[name]["environment"] if each.startswith("HOLDFAST_")}
            assert given <= known
            assert "HOLDFAST_DATABASE_URL" in given
        assert "HOLDFAST_BROKER_URL" in services["api"]["environment"]
        assert "HOLDFAST_BROKER_URL" in services["worker"]["environment"]

    def test_its_commands_exist(self, services: dict[str, Any]) -> None:
        assert services["migrate"]["command"] == ["holdfast", "migrate"]
        assert services["api"]["command"][:2] == ["holdfast", "api"]
        assert services["worker"]["command"] == ["holdfast", "worker"]

    def test_nobody_runs_as_root(self, services: dict[str, Any]) -> None:
        assert "\nUSER holdfast" in services["api"]["build"]["dockerfile_inline"]
