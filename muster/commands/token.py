"""`muster token ...`: keys and tokens for who may call (docs/security.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from muster.commands.arguments import Json, duration
from muster.commands.failures import reported
from muster.commands.output import make_console, make_table, print_json

app = typer.Typer(help="Makes keys and tokens for who may call.", no_args_is_help=True)

KeySet = Annotated[
    Path, typer.Option("--keys", help="The key set that replicas verify with (their auth.keys), JSON.")
]


@app.command("key")
@reported
def token_key(
    key: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the private key, PEM.")],
    keys: KeySet,
) -> None:
    """Draws an ed25519 key, and adds its public half to a key set."""
    from muster import tokens

    print(tokens.make_key(key, keys))


@app.command("keys")
@reported
def token_keys(
    keys: KeySet,
    remove: Annotated[
        str, typer.Option("--remove", metavar="KID", help="Take this key out; its tokens are refused then.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Lists the keys of a set by name and kind, without their material."""
    from muster import tokens

    if remove:
        tokens.remove_key(keys, remove)
    found = [
        {"kid": str(key.get("kid", "")), "kind": str(key.get("crv") or key.get("kty", ""))}
        for key in tokens.read_key_set(keys)
    ]
    if as_json:
        print_json(found)
        return
    table = make_table("kid", "kind")
    for entry in found:
        table.add_row(entry["kid"], entry["kind"])
    make_console().print(table)


@app.command("issue")
@reported
def token_issue(
    key: Annotated[Path, typer.Option("--key", help="The private key, PEM.")],
    subject: Annotated[
        str, typer.Option("--subject", help="Whom the token names: quotas and audit go by it.")
    ],
    scope: Annotated[
        list[str], typer.Option("--scope", help="read, write, feedback, admin or drill; may be repeated.")
    ],
    lifetime: Annotated[float, duration("--lifetime", "How long it is good, such as 90m.")] = 3_600_000.0,
    audience: Annotated[str, typer.Option("--audience", help="The replicas' auth.audience.")] = "muster",
    issuer: Annotated[str, typer.Option("--issuer", help="The replicas' auth.issuer.")] = "",
    once_at: Annotated[
        str, typer.Option("--once-at", metavar="REPLICA", help="Good for one call, to this replica.")
    ] = "",
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", help="Good only beside this client certificate, PEM."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to this file, for --token-file. Default: print it.")
    ] = None,
) -> None:
    """Signs a token."""
    from muster import tokens

    wanted = tokens.Wanted(
        subject=subject,
        scopes=[part for entry in scope for part in entry.split(",")],
        lifetime_s=lifetime / 1000,
        audience=f"{audience}/{once_at}" if once_at else audience,
        issuer=issuer,
        once=bool(once_at),
        certificate=certificate,
    )
    token = tokens.issue(key, wanted)
    if out is None:
        print(token)
        return
    # Whoever holds it may do what it says.
    draft = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
        draft.replace(out)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise tokens.TokenError(f"{out}: cannot be written: {error.strerror}") from error
