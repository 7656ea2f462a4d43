"""Every dependency has a reason, and what the image installs is what was tested."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements: list[str]) -> set[str]:
    """The packages, and the extras that they are wanted with."""
    return {name for each in requirements for name in re.findall(r"[a-z0-9-]+", each.split(">")[0])}


def pins(lock: str) -> dict[str, str]:
    """Each package's version, and under which conditions it is installed."""
    lines = (ROOT / lock).read_text().splitlines()
    return dict(line.rstrip(" \\").split("==", 1) for line in lines if re.match(r"[a-z0-9]", line))


def test_every_dependency_has_a_reason_and_every_reason_a_dependency() -> None:
    record = (ROOT / "docs/decisions/0010-dependencies.md").read_text()
    cells = [line.split("|")[1] for line in record.splitlines() if line.startswith("|")][2:]
    told = {name for cell in cells for name in re.findall(r"[a-z0-9-]+", cell)} - {"with", "and"}
    # An extra that is not told apart: SQLAlchemy's only brings the greenlets that Alembic's runner needs.
    assert names(project()["project"]["dependencies"]) - {"asyncio"} == told


def test_the_image_installs_the_versions_that_were_tested() -> None:
    tested, image = pins("requirements.lock"), pins(".ci/image.lock")
    builder = {"hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
    strangers = {name: pin for name, pin in image.items() if name not in tested}
    assert set(strangers) <= builder
    versions = {name: pin.split(" ")[0] for name, pin in image.items() if name in tested}
    assert versions == {name: tested[name].split(" ")[0] for name in versions}
    assert names(project()["project"]["dependencies"]) - {"asyncio", "redis"} <= set(image)


def test_the_image_installs_nothing_without_a_hash() -> None:
    lock = (ROOT / ".ci/image.lock").read_text()
    for block in re.split(r"\n(?=\S)", lock.strip()):
        assert "--hash=sha256:" in block, block
    compose = (ROOT / "compose.yaml").read_text()
    assert "--require-hashes --requirement image.lock" in compose
    assert "--no-deps --no-build-isolation ." in compose


def test_no_lock_records_an_address() -> None:
    for lock in ("requirements.lock", ".ci/image.lock"):
        assert "://" not in (ROOT / lock).read_text()
