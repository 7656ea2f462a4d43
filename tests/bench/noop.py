"""What serving costs before anything is done: a FastAPI route that reads a body and says `{}`.

`python -m tests.bench.noop api …` is `holdfast api …` in everything but the application, which each of its
processes loads from here.
"""

import sys

from fastapi import FastAPI, Request, Response

from app.cli import main as cli
from app.embedded import api_process
from app.settings import Settings
from tests.bench.exchanges import NOTHING


class _Nothing:
    """What the server asks for when it stops."""

    async def drain(self, after_seconds: float) -> None:
        del after_seconds


def nothing(settings: Settings) -> FastAPI:
    del settings
    app = FastAPI()
    app.state.resources = _Nothing()

    @app.api_route(NOTHING, methods=["GET", "POST"])
    async def say_nothing(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    return app


def main() -> None:
    api_process.create_app = nothing
    if sys.argv[1:2] == ["api"]:
        # By this name its processes are started, where there are several.
        api_process.__name__ = "tests.bench.noop"
        cli()
    else:
        api_process.main()


if __name__ == "__main__":
    main()
