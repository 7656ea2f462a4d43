"""API keys as text: `hf_`, 32 hex of the key's id, `_`, and 32 random bytes in base64url.

Only a hash of the random part is kept, BLAKE2b-256 keyed by the key's id. A slow hash makes up for
secrets that can be guessed; 256 random bits cannot, at any speed, so a fast one gives nothing away and
a request does not pay for it. The id as the key of the hash makes a search for many keys at once no
cheaper than for one.
"""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID

from app import ids

SECRET_BYTES = 32
_SECRET_LENGTH = 43  # of 32 bytes in base64 without padding
_LENGTH = len(ids.KEY) + 32 + 1 + _SECRET_LENGTH


@dataclass(frozen=True, slots=True)
class Key:
    """A key as its owner has it."""

    id: UUID
    secret: str

    @property
    def text(self) -> str:
        """The whole key. It is shown once, and never logged."""
        return f"{ids.key_id(self.id)}_{self.secret}"

    @property
    def hash(self) -> bytes:
        """What is stored of it: 32 bytes. The text is hashed, so no second spelling of it will do."""
        return blake2b(self.secret.encode(), key=self.id.bytes, digest_size=32).digest()

    def fits(self, stored: bytes) -> bool:
        """Whether this is the key whose hash was stored; it takes as long whichever byte is wrong."""
        return hmac.compare_digest(self.hash, stored)

    def __repr__(self) -> str:
        return f"Key({ids.key_id(self.id)})"


def mint() -> Key:
    return Key(ids.new_uuid(), secrets.token_urlsafe(SECRET_BYTES))


def parse(text: str) -> Key | None:
    """The key that a well-formed text is, or None: it can be nobody's."""
    if len(text) != _LENGTH or not text.isascii():
        return None
    name, mark, secret = text[: -_SECRET_LENGTH - 1], text[-_SECRET_LENGTH - 1], text[-_SECRET_LENGTH:]
    key_id = ids.parse_key_id(name)
    return Key(key_id, secret) if key_id is not None and mark == "_" else None


def masked(text: str) -> str:
    """What may be said of a key that was refused: how it begins, if it is one of ours, and its last four."""
    head = ids.KEY if text.startswith(ids.KEY) else ""
    # Of a short one, which may be somebody's password, the last four would be too much.
    tail = text[-4:] if len(text) >= 32 and text[-4:].isascii() and text[-4:].isprintable() else ""
    return f"{head}****{tail}"
