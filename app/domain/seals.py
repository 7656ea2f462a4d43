"""What must wait in the database but be read by nobody there: sealed with AES-256-GCM."""

import secrets
import struct
from collections.abc import Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
FORM = b"\x01"
"""First byte of a sealed text; another form of it would have another one."""

SECRETS_OF_TOOLS = b"holdfast:responses.secrets"
"""What is sealed where nothing else is said: a background response's, in its row."""


class CannotOpen(ValueError):
    """The text was sealed with another key or for another row, or was changed since."""


class Seals:
    """The keys of this process. The newest seals; it and the older ones open."""

    def __init__(self, key: bytes | None = None, old: Sequence[bytes] = ()) -> None:
        """Take keys of 32 bytes; without `key` nothing can be sealed."""
        self._sealing = AESGCM(key) if key else None
        self._opening = [AESGCM(each) for each in (key, *old) if each]

    @property
    def can_seal(self) -> bool:
        return self._sealing is not None

    def seal(self, text: bytes, tenant_id: int, row_id: UUID, *, purpose: bytes = SECRETS_OF_TOOLS) -> bytes:
        """Seal for this row alone: put into another one, it cannot be opened.

        Nonces are random: 2**32 of them under one key are safe, and a key seals fewer.
        """
        if self._sealing is None:
            raise ValueError("there is no key to seal with")
        nonce = secrets.token_bytes(NONCE_BYTES)
        return FORM + nonce + self._sealing.encrypt(nonce, text, _bound_to(purpose, tenant_id, row_id))

    def open(
        self, sealed: bytes, tenant_id: int, row_id: UUID, *, purpose: bytes = SECRETS_OF_TOOLS
    ) -> bytes:
        """The text that was sealed for this row and purpose.

        Raises:
            CannotOpen: none of the keys fits.
        """
        form, nonce, rest = sealed[:1], sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        if form == FORM and len(nonce) == NONCE_BYTES:
            for cipher in self._opening:
                try:
                    return cipher.decrypt(nonce, rest, _bound_to(purpose, tenant_id, row_id))
                except InvalidTag:
                    continue
        raise CannotOpen


NO_SEALS = Seals()
"""Of a process without keys: it refuses to seal, and opens nothing."""


def _bound_to(purpose: bytes, tenant_id: int, row_id: UUID) -> bytes:
    return purpose + struct.pack(">q", tenant_id) + row_id.bytes
