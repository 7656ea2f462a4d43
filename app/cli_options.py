"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TOML file of settings; HOLDFAST_CONFIG where it is not given."),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Home of the embedded servers. Default: the user's state folder, for root /var/lib/holdfast.",
    ),
]
