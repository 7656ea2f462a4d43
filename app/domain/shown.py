"""Stored items as one reader may see them."""

from collections.abc import Collection

from app.domain.gates import Gated, allowed, hide
from app.domain.items import join, split


def shown(blob: bytes, gated: Gated, include: Collection[str]) -> bytes:
    """Bytes as they are stored, unless something in them is gated and was not asked for."""
    if not gated & ~allowed(include):
        return blob
    return join(hide(split(blob), include))
