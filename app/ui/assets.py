"""Style sheet, scripts and icon, served from here. An address with the content's hash never changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Response

from app.errors import NotFound
from app.ui.addresses import ROOT

router = APIRouter()

_FOLDER = Path(__file__).parent / "static"
_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    media_type: str
    version: str


def _load() -> dict[str, Asset]:
    found = dict[str, Asset]()
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = Asset(content, _TYPES[path.suffix], sha256(content).hexdigest()[:16])
    return found


_ASSETS = _load()


def address(name: str) -> str:
    """Where an asset is, with its version.

    Raises:
        KeyError: there is none of this name.
    """
    return f"{ROOT}/static/{name}?v={_ASSETS[name].version}"


@router.get("/static/{name}")
async def read_asset(name: str, v: str = "") -> Response:
    """Serve one of the few files that there are."""
    if (asset := _ASSETS.get(name)) is None:
        raise NotFound(f"There is no file '{name}'.")
    kept = "public, max-age=31536000, immutable" if v == asset.version else "no-cache"
    return Response(asset.content, media_type=asset.media_type, headers={"cache-control": kept})
