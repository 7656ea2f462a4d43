import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.embedded.errors import CannotStart
from app.embedded.seal_key import FILE, own_key
from app.embedded.supervisor import process_environment
from app.settings import ConfigurationError, Settings, key_of


def test_it_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    key = own_key(tmp_path)
    assert len(key_of(SecretStr(key))) == 32
    assert own_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_each_folder_has_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    assert len({own_key(folder) for folder in folders}) == 2


def test_what_a_crash_left_half_written_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "seal.new").write_text("half")
    assert len(key_of(SecretStr(own_key(tmp_path)))) == 32


def test_one_that_others_may_read_is_refused(tmp_path: Path) -> None:
    own_key(tmp_path)
    (tmp_path / FILE).chmod(0o644)
    with pytest.raises(CannotStart, match="chmod 600"):
        own_key(tmp_path)


def test_the_processes_are_given_it_and_a_configured_one_is_passed_on(tmp_path: Path) -> None:
    key = own_key(tmp_path)
    settings = Settings(database_url=SecretStr("postgresql://x/y"))
    assert process_environment(settings, None, seal_key=key)["HOLDFAST_SEAL_KEY"] == key
    configured = settings.model_copy(update={"seal_key": SecretStr(key)})
    assert process_environment(configured, None)["HOLDFAST_SEAL_KEY"] == key


@pytest.mark.parametrize("text", ["c2hvcnQ=", "no base64!", "\u00fc" * 44])
@pytest.mark.parametrize("name", ["seal_key", "seal_keys_old"])
def test_what_is_no_key_is_refused_without_being_shown(name: str, text: str) -> None:
    given: dict[str, Any] = {name: [text] if name.endswith("old") else text}
    with pytest.raises(ConfigurationError, match="must be 32 bytes in base64") as refused:
        Settings.load(**given)
    assert text not in str(refused.value)
