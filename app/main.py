"""The HTTP composition root: resources, routers, middleware."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from app.api import (
    audit,
    compaction,
    contexts,
    conversations,
    errors,
    exports,
    openapi,
    ops,
    prompts,
    response_lists,
    responses,
    sockets,
    webhooks,
)
from app.api.authentication import Authentication
from app.api.correlation import Correlation
from app.api.keyring import open_keyring
from app.resources import open_resources
from app.settings import Settings
from app.ui.application import mounted


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. Nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with (
            open_resources(settings) as resources,
            open_keyring(resources.db, cache_seconds=settings.key_cache_seconds) as keyring,
        ):
            app.state.resources, app.state.keyring = resources, keyring
            yield

    app = FastAPI(
        title="Holdfast",
        version=version("holdfast"),
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.include_router(sockets.router)
    app.include_router(response_lists.router)
    # Before the routes in which an id stands where this one says `export`.
    app.include_router(exports.router)
    app.include_router(responses.router)
    app.include_router(conversations.router)
    app.include_router(contexts.router)
    app.include_router(prompts.router)
    app.include_router(compaction.router)
    app.include_router(audit.router)
    app.include_router(webhooks.router)
    app.include_router(ops.router)
    app.router.routes.append(mounted(app.state))
    # The last is the outermost: a refusal for want of a key has a request id too.
    app.add_middleware(Authentication)
    app.add_middleware(Correlation)
    errors.install(app)
    openapi.install(app)
    return app
