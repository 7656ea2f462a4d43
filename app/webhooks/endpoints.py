"""What is done to endpoints of webhooks, by the API and by the command line alike."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from app import ids
from app.domain.addresses import Gate, Network
from app.domain.audit import Action
from app.domain.seals import CannotOpen, Seals
from app.domain.tenancy import Caller
from app.domain.webhooks import Endpoint, Event, Outcome, hint_of
from app.errors import Conflict, InvalidRequest, NotFound
from app.store import outbox, webhook_deliveries, webhook_endpoints
from app.store.db import Database, ReadTx, Tx
from app.store.webhook_endpoints import Changes, Target
from app.webhooks import signing_secrets
from app.webhooks.sending import Sender

MOST_URL_CHARS = 2048


def not_found(endpoint_id: UUID) -> NotFound:
    """The same words whether it never was, was deleted, or is another tenant's (law L7)."""
    return missing(ids.webhook_endpoint_id(endpoint_id))


def missing(name: str) -> NotFound:
    return NotFound(f"Webhook endpoint with id '{name}' not found.")


def no_delivery(name: str) -> NotFound:
    return NotFound(f"Delivery of event with id '{name}' not found.")


def check_url(url: str, allowed: Sequence[Network]) -> None:
    """Refuse at once what could never be sent to. What a name stands for is checked with each attempt.

    Raises:
        InvalidRequest: it is no `https://` URL, nor an `http://` one where networks are allowed; it has a
            user, a password or a fragment; or it names an address that is not to be sent to.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _wrong_url("Expected a valid URL, but got a value with an invalid format.") from None
    if not host or not url.isprintable() or " " in url or len(url) > MOST_URL_CHARS:
        raise _wrong_url("Expected a valid URL, but got a value with an invalid format.")
    if parts.scheme != "https" and not (parts.scheme == "http" and allowed):
        raise _wrong_url("Expected a URL that begins with 'https://'.")
    if "@" in parts.netloc or parts.fragment:
        raise _wrong_url("Expected a URL without a user, a password or a fragment.")
    if _is_address(host) and not Gate(allowed, is_open=parts.scheme == "https").admits(host):
        raise _wrong_url("Webhooks are not sent to private addresses.")


async def create(
    tx: Tx, given: Changes, seals: Seals, *, most: int, allowed: Sequence[Network]
) -> tuple[Endpoint, str]:
    """Keep an endpoint and note it; the endpoint, and its secret, which is not shown again.

    Raises:
        InvalidRequest: it cannot be sent to, there are too many already, or nothing can be sealed here.
    """
    check_url(given.url or "", allowed)
    endpoint_id = ids.new_uuid()
    secret, sealed = _sealed_secret(seals, tx.tenant_id, endpoint_id)
    made = await webhook_endpoints.create(
        tx, endpoint_id, given, sealed=sealed, secret_hint=hint_of(secret), most=most
    )
    if made is None:
        raise InvalidRequest(
            f"Too many webhook endpoints: {most} is the limit.", code="webhook_endpoint_limit_exceeded"
        )
    await outbox.note(tx, Action.WEBHOOK_CREATED, endpoint_id, {"event_types": made.event_types})
    return made, secret


async def get(tx: ReadTx, endpoint_id: UUID) -> Endpoint:
    """The endpoint.

    Raises:
        NotFound: there is none.
    """
    found = await webhook_endpoints.get(tx, endpoint_id)
    if found is None:
        raise not_found(endpoint_id)
    return found


async def update(tx: Tx, endpoint_id: UUID, changes: Changes, *, allowed: Sequence[Network]) -> Endpoint:
    """Change what is given, and note it.

    Raises:
        InvalidRequest: it could not be sent to.
        NotFound: there is no such endpoint.
    """
    if changes.url is not None:
        check_url(changes.url, allowed)
    changed = await webhook_endpoints.update(tx, endpoint_id, changes)
    if changed is None:
        raise not_found(endpoint_id)
    fields = [name for name in ("name", "url", "event_types") if getattr(changes, name) is not None]
    await outbox.note(tx, Action.WEBHOOK_UPDATED, endpoint_id, {"fields": fields})
    return changed


async def rotate(tx: Tx, endpoint_id: UUID, seals: Seals, *, keeps_old: bool) -> tuple[Endpoint, str]:
    """Give an endpoint a new secret, and note it; the old one goes on signing for a day if that is asked.

    Raises:
        InvalidRequest: nothing can be sealed here.
        NotFound: there is no such endpoint.
    """
    secret, sealed = _sealed_secret(seals, tx.tenant_id, endpoint_id)
    changed = await webhook_endpoints.rotate(
        tx, endpoint_id, sealed=sealed, secret_hint=hint_of(secret), keeps_old=keeps_old
    )
    if changed is None:
        raise not_found(endpoint_id)
    await outbox.note(tx, Action.WEBHOOK_ROTATED, endpoint_id, {"keeps_old": keeps_old})
    return changed, secret


async def delete(tx: Tx, endpoint_id: UUID) -> None:
    """Remove an endpoint with its deliveries, and note it.

    Raises:
        NotFound: there is no such endpoint.
    """
    if not await webhook_endpoints.delete(tx, endpoint_id):
        raise not_found(endpoint_id)
    await outbox.note(tx, Action.WEBHOOK_DELETED, endpoint_id)


async def replay(tx: Tx, endpoint_id: UUID, event_id: UUID) -> dict[str, Any]:
    """Queue a delivery once more, and note it; as it is then shown.

    Raises:
        NotFound: there is no such delivery.
        Conflict: it is being tried just now.
    """
    is_queued = await webhook_deliveries.replay(tx, endpoint_id, event_id)
    found = await delivery(tx, endpoint_id, event_id)
    if not is_queued:
        raise Conflict("This delivery is being tried just now. Please retry later.")
    await outbox.note(tx, Action.WEBHOOK_REPLAYED, endpoint_id, {"event_id": ids.event_id(event_id)})
    return found


async def delivery(tx: ReadTx, endpoint_id: UUID, event_id: UUID) -> dict[str, Any]:
    """A delivery as it is shown, with every attempt at it.

    Raises:
        NotFound: there is none.
    """
    found = await webhook_deliveries.get(tx, endpoint_id, event_id)
    if found is None:
        raise no_delivery(ids.event_id(event_id))
    return found.shown() | {"attempts": await webhook_deliveries.attempts_of(tx, endpoint_id, event_id)}


async def sample(
    db: Database, caller: Caller, sender: Sender, seals: Seals, endpoint_id: UUID, *, event_type: str
) -> dict[str, Any]:
    """Send an event of no response at once, note it, and say what was answered. It is in no log of
    deliveries, nor tried again. No connection to Postgres waits with us (law L4).

    Raises:
        NotFound: there is no such endpoint.
        InvalidRequest: nothing was answered; the message says why.
    """
    async with db.read(caller) as tx:
        target = await webhook_endpoints.target(tx, endpoint_id)
    if target is None:
        raise not_found(endpoint_id)
    outcome = await _sampled(sender, seals, caller.tenant_id, target, event_type)
    told = {"event_type": event_type, "reason": outcome.reason, "status_code": outcome.status_code}
    async with db.begin(caller) as tx:
        await outbox.note(tx, Action.WEBHOOK_TESTED, endpoint_id, told)
    if outcome.status_code is None:
        raise InvalidRequest(f"The endpoint did not answer: {outcome.reason}.", code="webhook_test_failed")
    return {
        "object": "webhook_endpoint.test",
        "success": outcome.is_delivered,
        "status_code": outcome.status_code,
        "event_type": event_type,
        "webhook_endpoint_id": ids.webhook_endpoint_id(endpoint_id),
    }


async def _sampled(sender: Sender, seals: Seals, tenant_id: int, target: Target, event_type: str) -> Outcome:
    event = ids.new_uuid()
    try:
        secrets = signing_secrets.opened(seals, tenant_id, target.endpoint_id, target.sealed)
    except CannotOpen:
        raise InvalidRequest(_SEALED, code="webhook_secret_sealed") from None
    return await sender.send(target.url, Event(event, event_type, ids.created_at(event)), secrets)


_SEALED = "No key of this server opens the endpoint's secret: set 'seal_keys_old', or rotate the secret."


def _sealed_secret(seals: Seals, tenant_id: int, endpoint_id: UUID) -> tuple[str, bytes]:
    if not seals.can_seal:
        raise InvalidRequest(
            "Webhook endpoints have a secret, which is kept only where the setting 'seal_key' is set.",
            code="unsupported_operation",
        )
    return signing_secrets.new(seals, tenant_id, endpoint_id)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _wrong_url(told: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'url'. {told}", code="invalid_value", param="url")
