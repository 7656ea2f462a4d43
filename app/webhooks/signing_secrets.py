"""Signing secrets of endpoints: minted here, kept sealed (docs/decisions/0021 and 0028)."""

from collections.abc import Sequence
from uuid import UUID

from app.domain.seals import Seals
from app.domain.webhooks import SEALED_FOR, mint_secret


def new(seals: Seals, tenant_id: int, endpoint_id: UUID) -> tuple[str, bytes]:
    """A secret, and the same as it is kept.

    Raises:
        ValueError: there is no key to seal with.
    """
    secret = mint_secret()
    return secret, seals.seal(secret.encode(), tenant_id, endpoint_id, purpose=SEALED_FOR)


def opened(seals: Seals, tenant_id: int, endpoint_id: UUID, sealed: Sequence[bytes]) -> list[str]:
    """The secrets that sign.

    Raises:
        CannotOpen: no key of this process fits one of them.
    """
    return [seals.open(each, tenant_id, endpoint_id, purpose=SEALED_FOR).decode() for each in sealed]
