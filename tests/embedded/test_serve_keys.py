"""Keys of a `holdfast serve`, whose database is its own."""

import subprocess
import sys
from pathlib import Path

import httpx2

from tests.embedded.processes import ROOT, clean_environment, serving
from tests.waiting import PATIENCE_SECONDS, wait_until


def holdfast(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def test_its_first_key_closes_it(state_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "holdfast.toml"
    config.write_text("key_cache_seconds = 0.1\n")
    with serving(state_dir, "--config", str(config)) as serve:
        models = f"{serve.base}/v1/models"
        assert httpx2.get(models).status_code == 200
        made = holdfast("key", "create", "--tenant", "default", "--state-dir", str(state_dir))
        assert made.returncode == 0, made.stderr
        wait_until(lambda: httpx2.get(models).status_code == 401)
        headers = {"authorization": f"Bearer {made.stdout.strip()}"}
        assert httpx2.get(models, headers=headers).status_code == 200


def test_it_does_not_serve_strangers_without_one(state_dir: Path) -> None:
    refused = holdfast("serve", "--host", "0.0.0.0", "--port", "0", "--state-dir", str(state_dir))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("holdfast: anybody who reaches 0.0.0.0 could use")
