"""What is done to prompts beside using them: each in the caller's transaction, with its note."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app import ids
from app.domain.audit import Action
from app.domain.prompts import MAX_PROMPTS, MAX_VERSIONS, Prompt, Template, Version
from app.errors import Conflict, InvalidRequest, RequestError
from app.generation.prompts import clip, not_found, number_of
from app.store import outbox, prompts
from app.store.db import Tx


async def create(
    tx: Tx, template: Template, *, prompt_id: str | None, name: str, metadata: Mapping[str, str]
) -> tuple[Prompt, Version]:
    """Keep a new prompt, under an id of ours where none was chosen.

    Raises:
        Conflict: the tenant has, or had, a prompt of the chosen id.
        InvalidRequest: it has too many.
    """
    key = ids.new_uuid()
    prompt = Prompt(key, prompt_id or ids.prompt_id(key), name, metadata, latest=1, pinned=None)
    version = await prompts.create(tx, prompt, template)
    if version is None:
        raise await _not_created(tx, prompt.id)
    await outbox.note(tx, Action.PROMPT_CREATED, key, {"id": prompt.id, "name": name})
    return prompt, version


async def extend(tx: Tx, prompt_id: str, template: Template) -> tuple[Prompt, Version]:
    """Add a version, which is the newest from then on, and the default unless another one is pinned.

    Raises:
        NotFound: there is no such prompt.
        InvalidRequest: it has too many versions.
    """
    extended = await prompts.extend(tx, prompt_id, template)
    if extended is None:
        raise await _not_extended(tx, prompt_id)
    key, version = extended
    await outbox.note(tx, Action.PROMPT_EXTENDED, key, {"id": prompt_id, "version": version.number})
    found = await prompts.find(tx, prompt_id)
    if found is None:
        raise not_found(prompt_id)
    return found[0], version


async def update(tx: Tx, prompt_id: str, changes: Mapping[str, Any]) -> Prompt:
    """Change the name, the metadata as a whole, or which version is the default.

    Args:
        changes: what a request may say of them (`UpdatePrompt`). Null empties `name` and `metadata`, and
            as `default_version` is whatever version is the newest.

    Raises:
        NotFound: there is no such prompt.
        InvalidRequest: there is no such version.
    """
    prompt = await prompts.lock(tx, prompt_id)
    if prompt is None:
        raise not_found(prompt_id)
    changed = replace(
        prompt,
        name=(changes["name"] or "") if "name" in changes else prompt.name,
        metadata=(changes["metadata"] or {}) if "metadata" in changes else prompt.metadata,
        pinned=_pinned(prompt, changes["default_version"]) if "default_version" in changes else prompt.pinned,
    )
    await prompts.update(tx, changed)
    told = {"id": prompt_id, "changed": sorted(changes), "pinned": changed.pinned}
    await outbox.note(tx, Action.PROMPT_UPDATED, prompt.key, told)
    return changed


async def delete(tx: Tx, prompt_id: str) -> None:
    """Remove a prompt with all its versions. What was made by it stays as it is; no other comes by its id.

    Raises:
        NotFound: there is no such prompt.
    """
    key = await prompts.delete(tx, prompt_id)
    if key is None:
        raise not_found(prompt_id)
    await outbox.note(tx, Action.PROMPT_DELETED, key, {"id": prompt_id})


async def _not_created(tx: Tx, prompt_id: str) -> RequestError:
    is_deleted = await prompts.is_deleted(tx, prompt_id)
    if is_deleted is None:
        told = f"Too many prompts: {MAX_PROMPTS} is the limit. Delete some, or add versions to them."
        return InvalidRequest(told, code="prompt_limit_exceeded")
    if is_deleted:
        told = f"A prompt with id '{prompt_id}' was deleted, and its id is not used again. Choose another id."
        return Conflict(told, code="prompt_deleted", param="id")
    told = f"A prompt with id '{prompt_id}' exists already. Add a version to it, or choose another id."
    return Conflict(told, code="prompt_exists", param="id")


async def _not_extended(tx: Tx, prompt_id: str) -> RequestError:
    if await prompts.find(tx, prompt_id) is None:
        return not_found(prompt_id)
    told = f"Too many versions of prompt '{prompt_id}': {MAX_VERSIONS} is the limit. Make another prompt."
    return InvalidRequest(told, code="prompt_version_limit_exceeded")


def _pinned(prompt: Prompt, version: str | None) -> int | None:
    if version is None:
        return None
    number = number_of(version)
    if number is None or number > prompt.latest:
        raise InvalidRequest(
            f"Invalid 'default_version': prompt '{prompt.id}' has no version '{clip(version)}'.",
            code="invalid_value",
            param="default_version",
        )
    return number
