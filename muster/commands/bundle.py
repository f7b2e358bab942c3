"""`muster bundle ...`: looks at a bundle, and signs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from muster.commands.arguments import Json
from muster.commands.failures import EXIT_USAGE, MissingRoomError, complain, reported, room
from muster.commands.output import make_console, print_json

app = typer.Typer(help="Looks at a model bundle.", no_args_is_help=True)


@app.command("verify")
@reported
def bundle_verify(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    replay: Annotated[
        bool | None,
        typer.Option(
            "--replay/--no-replay",
            help="Run the golden requests on this machine. Default: where the ranking core is built.",
        ),
    ] = None,
    trusted: Annotated[
        list[str] | None,
        typer.Option("--trusted", metavar="KEY", help="Ask for a signature by one of these public keys."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Checks every file of a bundle against its manifest, what they say, and the signature."""
    from muster.bundle import check_signature, read_bundle

    bundle = read_bundle(folder)
    check_signature(bundle.manifest, trusted or (), allow_unsigned=not trusted)
    signature = bundle.manifest.signature
    differences: list[str] | None = None
    rankcore = None
    if replay is not False:
        try:
            rankcore = room("rankcore", "Build it with `make build`")
        except MissingRoomError:
            if replay:
                raise
    if rankcore is not None:
        engine = rankcore.Engine(str(folder), runtime_library=rankcore.runtime_library())
        try:
            differences = list(engine.verify_golden())
        finally:
            engine.close()
    if as_json:
        print_json(
            {
                "bundle": bundle.bundle_id,
                "files": len(bundle.manifest.files),
                "bytes": bundle.bytes,
                "signed_by": None if signature is None else signature.public_key,
                "golden": None if differences is None else {"differences": differences},
            }
        )
    else:
        print(
            f"{bundle.bundle_id}: {len(bundle.manifest.files)} files, {bundle.bytes:,} bytes, all as declared"
        )
        print("not signed" if signature is None else f"signed by {signature.public_key}")
        if differences == []:
            print("the golden requests reproduce on this machine")
    if differences:
        for difference in differences:
            complain(difference)
        raise typer.Exit(EXIT_USAGE)


@app.command("key")
@reported
def bundle_key(
    file: Annotated[Path, typer.Argument(help="File to write the private key into; must not exist.")],
    as_json: Json = False,
) -> None:
    """Draws a key to sign bundles with; prints the public key, for `release.trusted_keys`."""
    from muster.bundle import make_key

    key = make_key(file)
    if as_json:
        print_json({"file": str(file), "public_key": key.public_key})
    else:
        print(key.public_key)


@app.command("sign")
@reported
def bundle_sign(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    key: Annotated[Path, typer.Option("--key", help="Private key, from `muster bundle key`.")],
    as_json: Json = False,
) -> None:
    """Signs a bundle in place; its files and its identity stay as they are."""
    from muster.bundle import read_key, sign_bundle

    signing_key = read_key(key)
    manifest = sign_bundle(folder, signing_key)
    if as_json:
        print_json({"bundle": manifest.bundle_id, "public_key": signing_key.public_key})
    else:
        print(f"{manifest.bundle_id}: signed by {signing_key.public_key}")


@app.command("card")
@reported
def bundle_card(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    as_json: Json = False,
) -> None:
    """Prints the model card of a bundle."""
    from muster.bundle import read_bundle

    bundle = read_bundle(folder)
    if as_json:
        print_json(bundle.card())
        return
    text = (bundle.folder / "card.md").read_text(encoding="utf-8")
    if sys.stdout.isatty():
        from rich.markdown import Markdown

        make_console().print(Markdown(text))
    else:
        print(text)
