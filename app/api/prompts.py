"""/v1/prompts: kept, listed, read, changed, deleted; their versions. An extension of ours."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import TypeAdapter

from app import ids
from app.api import idempotency, openapi, pages
from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import prompt_name
from app.api.json_bodies import as_json, read_params
from app.api.schemas import prompt as schemas
from app.api.scopes import READS, WRITES
from app.domain import prompts as domain
from app.domain.audit import Action
from app.domain.prompts import Prompt, Version
from app.errors import InvalidRequest
from app.generation import prompt_keeping
from app.generation import prompts as generation
from app.store import prompts
from app.store.db import ReadTx, Tx

router = APIRouter(prefix="/v1/prompts", tags=["prompts"])


@router.post("", dependencies=WRITES, **openapi.CREATE_PROMPT)
async def create_prompt(request: Request, caller: CallerDep, it: ResourcesDep) -> Response:
    """Keep a template, to which a create then refers by `prompt`. This is its version 1.

    An `id` that begins with `pmpt_` may be chosen, so that programs which know a prompt by its id elsewhere
    go on here unchanged. In the instructions and the texts of messages `{{name}}` is a place that the
    variable of that name fills.
    """
    params = await _params(request, it, schemas.CREATE, schemas.CreatePrompt)
    template = _template(params)

    async def write(tx: Tx) -> bytes:
        made = await prompt_keeping.create(
            tx,
            template,
            prompt_id=params.get("id"),
            name=params.get("name") or "",
            metadata=params.get("metadata") or {},
        )
        return orjson.dumps(prompt_object(*made))

    return await idempotency.once(request, params, caller, it, write)


@router.get("", dependencies=READS, **openapi.LIST_PROMPTS)
async def list_prompts(
    caller: CallerDep,
    it: ResourcesDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: pages.After = None,
) -> Response:
    """List prompts, newest first, without their templates."""
    async with it.db.read(caller) as tx:
        cursor = None if after is None else await _place(tx, after)
        found = await prompts.page(tx, limit=limit + 1, newest_first=order == "desc", after=cursor)
    page = found[:limit]
    objects = [orjson.dumps(prompt_object(prompt)) for prompt in page]
    return pages.envelope(objects, [prompt.id for prompt in page], has_more=len(found) > limit)


@router.get("/{prompt_id}", dependencies=READS, **openapi.GET_PROMPT)
async def get_prompt(
    prompt_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    version: Annotated[str | None, Query(description="Instead of the default version.")] = None,
) -> Response:
    """Read a prompt with one version's template: its default's, unless another is asked for."""
    name = prompt_name(prompt_id)
    async with it.db.read(caller) as tx:
        prompt, found = await generation.read(tx, name, version)
    it.readings.note(caller, Action.PROMPT_READ, prompt.key, {"id": prompt.id, "version": found.number})
    return as_json(prompt_object(prompt, found))


@router.post("/{prompt_id}", dependencies=WRITES, **openapi.UPDATE_PROMPT)
async def update_prompt(request: Request, prompt_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Change a prompt's name, its whole metadata, or its default version.

    What is left out stays. A `default_version` of null is the newest one, also when there are newer ones.
    """
    name = prompt_name(prompt_id)
    params = await _params(request, it, schemas.UPDATE, schemas.UpdatePrompt)
    async with it.db.begin(caller) as tx:
        return as_json(prompt_object(await prompt_keeping.update(tx, name, params)))


@router.delete("/{prompt_id}", dependencies=WRITES, **openapi.DELETE_PROMPT)
async def delete_prompt(prompt_id: str, caller: CallerDep, it: ResourcesDep) -> dict[str, str | bool]:
    """Delete a prompt with all its versions. Responses that were made with it stay as they are."""
    name = prompt_name(prompt_id)
    async with it.db.begin(caller) as tx:
        await prompt_keeping.delete(tx, name)
    return {"id": prompt_id, "object": "prompt.deleted", "deleted": True}


@router.post("/{prompt_id}/versions", dependencies=WRITES, **openapi.CREATE_PROMPT_VERSION)
async def create_version(request: Request, prompt_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Keep a template as the newest version. It is the default at once, unless another one is pinned."""
    name = prompt_name(prompt_id)
    params = await _params(request, it, schemas.EXTEND, schemas.CreatePromptVersion)
    template = _template(params)

    async def write(tx: Tx) -> bytes:
        return orjson.dumps(version_object(*await prompt_keeping.extend(tx, name, template)))

    return await idempotency.once(request, params, caller, it, write)


@router.get("/{prompt_id}/versions", dependencies=READS, **openapi.LIST_PROMPT_VERSIONS)
async def list_versions(
    prompt_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: pages.After = None,
) -> Response:
    """List the versions of a prompt with their templates, newest first. `after` is a version's number."""
    name, cursor = prompt_name(prompt_id), None if after is None else _number(after)
    async with it.db.read(caller) as tx:
        prompt, _ = await generation.read(tx, name)
        found = await prompts.versions(
            tx, prompt.key, limit=limit + 1, newest_first=order == "desc", after=cursor
        )
    it.readings.note(caller, Action.PROMPT_READ, prompt.key, {"id": prompt.id, "part": "versions"})
    page = found[:limit]
    objects = [orjson.dumps(version_object(prompt, version)) for version in page]
    return pages.envelope(objects, [str(version.number) for version in page], has_more=len(found) > limit)


def prompt_object(prompt: Prompt, version: Version | None = None) -> dict[str, Any]:
    """A prompt as it is answered, with one of its versions if that is at hand."""
    told = {
        "id": prompt.id,
        "object": "prompt",
        "created_at": ids.created_at(prompt.key),
        "name": prompt.name,
        "metadata": dict(prompt.metadata),
        "latest_version": str(prompt.latest),
        "default_version": str(prompt.default),
        "is_pinned": prompt.pinned is not None,
    }
    return told if version is None else {**told, "version": version_object(prompt, version)}


def version_object(prompt: Prompt, version: Version) -> dict[str, Any]:
    """A version as it is answered."""
    return {
        "object": "prompt.version",
        "prompt_id": prompt.id,
        "version": str(version.number),
        "created_at": int(version.created_at.timestamp()),
        "is_default": version.number == prompt.default,
        "variables": domain.places(version.template),
        "template": version.template,
    }


async def _params(
    request: Request, it: ResourcesDep, adapter: TypeAdapter[Any], declared: type
) -> dict[str, Any]:
    return await read_params(request, it, adapter, declared, items="template.messages")


def _template(params: Mapping[str, Any]) -> dict[str, Any]:
    """The template of a body in the form in which it is kept."""
    generation.refuse_secrets(params["template"], path="template.")
    return domain.kept(params["template"])


async def _place(tx: ReadTx, after: str) -> UUID:
    """Where the list goes on after a prompt."""
    found = await prompts.find(tx, after) if domain.is_id(after) else None
    if found is None:
        raise _no_cursor(f"no prompt has the id '{generation.clip(after)}'")
    return found[0].key


def _number(after: str) -> int:
    number = generation.number_of(after)
    if number is None:
        raise _no_cursor(f"no version has the number '{generation.clip(after)}'")
    return number


def _no_cursor(reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'after': {reason}.", code="invalid_value", param="after")
