"""For those who run the server: liveness, readiness, and which models there are."""

from typing import Any

from fastapi import APIRouter

from app.api import openapi
from app.api.deps import CallerDep, ResourcesDep
from app.api.model_access import resolve
from app.api.scopes import READS
from app.errors import InvalidRequest, NotFound

router = APIRouter()

MODELS_SINCE = 1767225600
"""`created` of every model: upstreams do not say, and the field may not be missing (2026-01-01)."""


@router.get("/healthz", tags=["operations"])
async def healthz() -> dict[str, str]:
    """Whether the process is alive. Asks nobody."""
    return {"status": "ok"}


@router.get("/readyz", tags=["operations"], **openapi.READY)
async def readyz(it: ResourcesDep) -> dict[str, str]:
    """Whether requests can be served: Postgres answers."""
    await it.db.ping()
    return {"status": "ok"}


@router.get("/v1/models", tags=["models"], dependencies=READS)
async def list_models(caller: CallerDep, it: ResourcesDep) -> dict[str, Any]:
    """List the models that can be named in a request. Patterns without a list behind them are not shown."""
    names = await it.registry.names()
    return {"object": "list", "data": [_model(name, owner) for name, owner in names if caller.may_name(name)]}


@router.get("/v1/models/{model:path}", tags=["models"], dependencies=READS, **openapi.MODEL)
async def get_model(model: str, caller: CallerDep, it: ResourcesDep) -> dict[str, Any]:
    """Describe one model: any name that a request may use."""
    try:
        route = resolve(it.registry, caller, model)
    except InvalidRequest as error:
        message = f"The model '{model}' does not exist"
        raise NotFound(message, code="model_not_found", param="model") from error
    return _model(model, route.provider.name)


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": MODELS_SINCE, "owned_by": owner}
