"""The HTTP composition root: resources, routers, middleware."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from app.api import contexts, conversations, errors, openapi, ops, responses
from app.api.correlation import Correlation
from app.resources import open_resources
from app.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. Nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with open_resources(settings) as resources:
            app.state.resources = resources
            yield

    app = FastAPI(
        title="Holdfast",
        version=version("holdfast"),
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.include_router(responses.router)
    app.include_router(conversations.router)
    app.include_router(contexts.router)
    app.include_router(ops.router)
    app.add_middleware(Correlation)
    errors.install(app)
    openapi.install(app)
    return app
