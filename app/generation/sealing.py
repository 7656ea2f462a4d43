"""The secrets of a background response's tools: in no row as they are, and in the worker's memory alone."""

from collections.abc import Mapping
from typing import Any

import orjson

from app.domain.jobs import Job
from app.domain.response import Draft
from app.domain.seals import CannotOpen, Seals
from app.domain.tenancy import Caller
from app.domain.tool_secrets import Secret, secrets_in, with_secrets, without_secrets
from app.errors import ServiceError


class Sealed(ServiceError):
    """The secrets of this response's tools could not be opened: no key of this server fits them."""


def put_away(draft: Draft, caller: Caller, seals: Seals) -> tuple[bytes, bytes | None]:
    """A draft's parameters as they may be stored, and what is missing from them, sealed."""
    secrets = secrets_in(draft.params)
    sealed = (
        seals.seal(orjson.dumps([[*secret] for secret in secrets]), caller.tenant_id, draft.id)
        if secrets
        else None
    )
    return orjson.dumps(without_secrets(draft.params)), sealed


def opened(params: Mapping[str, Any], job: Job, seals: Seals) -> Mapping[str, Any]:
    """The parameters as the client sent them. The draft stays without secrets, and all that is told of it.

    Raises:
        Sealed: no key fits; asking the upstream without the secrets would ask something else.
    """
    if job.secrets is None:
        return params
    try:
        text = seals.open(job.secrets, job.claim.tenant_id, job.claim.response_id)
    except CannotOpen:
        raise Sealed from None
    return with_secrets(params, [Secret(tuple(path), value) for path, value in orjson.loads(text)])
