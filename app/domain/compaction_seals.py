"""How memories travel: sealed in a compaction item, which clients keep and none but our servers read.

AES-256-GCM with a key that HKDF (RFC 5869) makes of the seal key, so that neither tells anything of the
other. Every server with the same seal key opens it, for a tenant of the same name.
"""

import base64
import secrets
from collections.abc import Sequence

import orjson
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.domain.compaction import Memory
from app.domain.seals import KEY_BYTES, NONCE_BYTES, CannotOpen

FORM = "hfc1."
"""How a memory of ours begins; another form of it would begin otherwise, as those of others do."""

_PURPOSE = b"holdfast:compaction"


class MemorySeals:
    """The keys of this process. The newest seals; it and the older ones open."""

    def __init__(self, seal_key: bytes | None = None, old: Sequence[bytes] = ()) -> None:
        """Take the 32 bytes of the seal key, and those of older ones; without it nothing can be sealed."""
        self._sealing = _derived(seal_key) if seal_key else None
        self._opening = [_derived(each) for each in (seal_key, *old) if each]

    @property
    def can_seal(self) -> bool:
        return self._sealing is not None

    def seal(self, memory: Memory, tenant: str) -> str:
        """The memory as `encrypted_content`, for tenants of this name alone.

        Nonces are random: 2**32 of them under one key are safe, and a key seals fewer.
        """
        if self._sealing is None:
            raise ValueError("there is no key to seal with")
        text = zstandard.compress(orjson.dumps([memory.before, memory.summary, memory.after]))
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = nonce + self._sealing.encrypt(nonce, text, _bound_to(tenant))
        return _spelt(sealed)

    def open(self, content: str, tenant: str) -> Memory:
        """The memory that was sealed.

        Raises:
            CannotOpen: none of the keys fits, it was changed, or it is none of ours.
        """
        try:
            sealed = base64.b64decode(content.removeprefix(FORM), altchars=b"-_", validate=True)
        except ValueError:
            raise CannotOpen from None
        # Other spellings of the same bytes are refused: what was changed is not what was sealed.
        if content == _spelt(sealed):
            for cipher in self._opening:
                try:
                    text = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound_to(tenant))
                except (InvalidTag, ValueError):  # or it is too short to be anything sealed
                    continue
                # Only what we sealed ourselves comes here, so it is whole and keeps its form.
                return Memory(*orjson.loads(zstandard.decompress(text)))
        raise CannotOpen


NO_SEALS = MemorySeals()
"""Of a process without keys: it compacts nothing, and opens nothing."""


def is_ours(content: str) -> bool:
    """Whether it says that one of our servers made it; whether that is true, its key tells."""
    return content.startswith(FORM)


def _spelt(sealed: bytes) -> str:
    return FORM + base64.urlsafe_b64encode(sealed).decode()


def _derived(seal_key: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=_PURPOSE).derive(seal_key))


def _bound_to(tenant: str) -> bytes:
    return _PURPOSE + b":" + tenant.encode()
