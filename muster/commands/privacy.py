"""`muster privacy ...`: passes on what looks after shoppers' data."""

from __future__ import annotations

import typer

from muster.commands.arguments import PASS_ON
from muster.commands.failures import reported, room

app = typer.Typer(help="Looks after shoppers' data.", no_args_is_help=True)

_COMMANDS = {
    "erase": "Takes one shopper out of store, exports and backups: --shopper ID; --help lists all.",
    "erase-again": "Erases all who were erased before, in a catalogue from a backup: --store PATH.",
    "scan": "Looks for a shopper in the bytes of every file: --shopper ID [--json].",
    "places": "Lists the files outside the store that hold shoppers' data.",
    "new-key": "Draws a key for encrypted backups: FILE.",
    "rewrap": "Puts encrypted backups under the newest key: FILE... --keys KEYS.",
    "seal": "Encrypts files and folders of files, such as runs, where they lie: PATH... --keys KEYS.",
    "unseal": "Takes them out of their envelopes: PATH... --keys KEYS.",
    "rotate-secret": "Draws a new secret for pseudonyms.",
}


def _pass_on(name: str, text: str) -> None:
    @app.command(name, help=text, context_settings=PASS_ON)
    @reported
    def run(context: typer.Context) -> None:
        module = room("server.privacy.commands", "Install what serving needs with `make build`")
        raise typer.Exit(module.main([name, *context.args]))


for _name, _text in _COMMANDS.items():
    _pass_on(_name, _text)
