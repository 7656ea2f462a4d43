"""Signatures on checkpoints of the audit trail: Ed25519 (RFC 8032), from the key that seals secrets.

One secret to keep instead of two: HKDF (RFC 5869) makes of it a key that tells nothing of the first. Who
only checks needs the public half alone.
"""

from collections.abc import Sequence
from dataclasses import replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.domain.audit import Checkpoint, micros

_PURPOSE = b"holdfast:audit.checkpoints"


class Signer:
    """The key of this process that vouches for trails."""

    def __init__(self, seal_key: bytes | None = None, old: Sequence[bytes] = ()) -> None:
        """Take the 32 bytes of the seal key, and those of older ones; without it nothing can be signed."""
        self._private = _derived(seal_key) if seal_key else None
        self.trusted = frozenset(_public(_derived(each)) for each in (seal_key, *old) if each)
        """The public keys by which this server has ever signed."""

    @property
    def public_key(self) -> bytes | None:
        """32 bytes, for whoever checks."""
        return _public(self._private) if self._private else None

    def signed(self, tenant_id: int, checkpoint: Checkpoint) -> Checkpoint:
        """Vouch that this trail had this hash at this place, at this time; as it is without a key."""
        if self._private is None:
            return checkpoint
        signature = self._private.sign(_message(tenant_id, checkpoint))
        return replace(checkpoint, public_key=self.public_key, signature=signature)


def is_signed(tenant_id: int, checkpoint: Checkpoint) -> bool:
    """Whether the key that a checkpoint names has vouched for it. Whose key that is, is not asked."""
    if checkpoint.public_key is None or checkpoint.signature is None:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(checkpoint.public_key)
        key.verify(checkpoint.signature, _message(tenant_id, checkpoint))
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _derived(seal_key: bytes) -> Ed25519PrivateKey:
    seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(seal_key)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def _message(tenant_id: int, checkpoint: Checkpoint) -> bytes:
    at, digest = micros(checkpoint.at), checkpoint.hash.hex().encode()
    return b"%s %d %d %d %s" % (_PURPOSE, tenant_id, checkpoint.seq, at, digest)
