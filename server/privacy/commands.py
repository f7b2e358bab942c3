"""What an operator does for shoppers: ``muster privacy erase | scan | seal | ...``.

Exit codes: 0 done, or nothing found; 10 something is left, and said where; 2 bad usage, or refused; 3 no
primary answers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from server.catalogue.command_line import (
    add_keys,
    add_store,
    complain,
    keys_of,
    location,
    print_json,
)
from server.catalogue.errors import StoreError
from server.catalogue.export import require_unused
from server.catalogue.location import is_postgresql
from server.catalogue.sqlite import SqliteStore
from server.catalogue.store import StoreConfig
from server.privacy import erasure as erasing
from server.privacy import places as registry
from server.privacy import secrets as secret_files
from server.privacy.envelope import EnvelopeRefused, KeyEncryption, new_key, rewrap
from server.privacy.erasure import Eraser, Trail
from server.privacy.rewriting import rewrite_backup, rewrite_copy, rewrite_export, unserved_step
from server.privacy.scan import Scan
from server.privacy.sealing import Sealable, files_of, seal, unseal
from server.privacy.secrets import SecretsRefused, add_secret, open_secrets

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_LEFT = 10

_REWRITERS: dict[str, Callable[[Path, Trail, KeyEncryption | None], int]] = {
    registry.EXPORT: rewrite_export,
    registry.BACKUP: rewrite_backup,
    registry.COPY: rewrite_copy,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        parsed = _parser().parse_args(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    try:
        return int(parsed.run(parsed))
    except (SecretsRefused, EnvelopeRefused, StoreError) as error:
        complain(str(error))
        return EXIT_USAGE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        return EXIT_USAGE


# --- erase -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One place. events: taken out there; None: it could not be looked at, problem says why."""

    place: str
    events: int | None
    problem: str = ""


def _erase(arguments: argparse.Namespace) -> int:
    shopper_id = _shopper(arguments)
    if not shopper_id:
        complain("name the shopper with --shopper ID, or --shopper - and a line on standard input")
        return EXIT_USAGE
    premises = _Premises.of(arguments)
    eraser = premises.eraser()
    seen: list[Seen] = []
    cleared = True
    if arguments.files_only:
        pass
    elif arguments.stopped:
        with closing(premises.unserved()) as opened:
            erased = eraser.erase(shopper_id, unserved_step(opened), lambda texts: _rewritten(opened, texts))
        seen.append(Seen(premises.store, erased.log_events + erased.folded_events))
        cleared = erased.cleared
    else:
        answer, problem = _asked(arguments.target, shopper_id)
        if answer is None:
            complain(problem)
            complain(
                "nothing was erased yet; with all replicas stopped, --stopped erases in the store itself"
            )
            return EXIT_UNAVAILABLE
        seen.append(Seen(f"the store of {arguments.target}", answer.log_events + answer.folded_events))
        cleared = answer.cleared
    trail = eraser.trail(shopper_id)
    keys = keys_of(arguments)
    places = registry.places(premises.folder)
    seen += [_rewritten_place(place, trail, keys, arguments.store_keys) for place in places]
    left = [one for one in seen if one.events is None]
    if arguments.json:
        print_json({"places": [asdict(one) for one in seen], "cleared": cleared, "left": len(left)})
    else:
        for one in seen:
            told = one.problem if one.events is None else f"{one.events:,} events taken out"
            print(f"{one.place}: {told}")
        if not cleared:
            print("the store's files still hold traces; run the same command again, or with --stopped")
        print("look again with `muster privacy scan --shopper ID`")
    return EXIT_LEFT if left or not cleared else EXIT_DONE


def _asked(target: str, shopper_id: str) -> tuple[Any, str]:
    """The primary's answer, or why there is none."""
    from muster.client import Client, MusterError

    try:
        with Client(target) as client:
            return client.erase_shopper(shopper_id), ""
    except MusterError as error:
        return None, str(error)


def _rewritten(opened: SqliteStore, texts: list[bytes]) -> bool:
    opened.rewrite()
    return opened.clear_traces(texts)


def _rewritten_place(
    place: registry.Place, trail: Trail, keys: KeyEncryption | None, store_keys: str
) -> Seen:
    if not place.path.exists():
        sealed = Sealable(place.path, "").sealed
        if sealed.exists():
            return Seen(
                str(sealed), None, "not looked through: it is sealed; `muster privacy unseal` it first"
            )
        return Seen(str(place.path), 0)
    try:
        if place.kind == registry.COPY:
            events = rewrite_copy(place.path, trail, store_keys=store_keys)
        else:
            events = _REWRITERS[place.kind](place.path, trail, keys)
        return Seen(str(place.path), events)
    except (StoreError, OSError, ValueError) as error:
        # pyarrow's errors are ValueErrors or OSErrors.
        return Seen(str(place.path), None, f"not looked through: {error}")


def _again(arguments: argparse.Namespace) -> int:
    premises = _Premises.of(arguments)
    with closing(premises.unserved()) as opened:
        erased = premises.eraser().erase_again(
            unserved_step(opened), lambda texts: _rewritten(opened, texts) if texts else True
        )
    events = erased.log_events + erased.folded_events
    if arguments.json:
        print_json({"shoppers": len(erased.pseudonyms), "events": events, "cleared": erased.cleared})
    else:
        print(
            f"{premises.store}: {events:,} events of {len(erased.pseudonyms):,} erased pseudonyms taken out"
        )
    return EXIT_DONE if erased.cleared else EXIT_LEFT


# --- scan --------------------------------------------------------------------------------------------------


def _scan(arguments: argparse.Namespace) -> int:
    texts: dict[str, str] = {}
    if arguments.shopper:
        shopper_id = _shopper(arguments)
        premises = _Premises.of(arguments)
        texts["the shopper's name"] = shopper_id
        for number, name in enumerate(premises.eraser().pseudonyms_of(shopper_id), start=1):
            texts[f"pseudonym {number}"] = name
    for number, text in enumerate(arguments.text, start=1):
        texts[f"text {number}"] = text
    if not texts:
        complain("name what to look for: --shopper ID, or --text TEXT")
        return EXIT_USAGE
    scan = Scan(texts, keys_of(arguments), arguments.store_keys)
    for path in arguments.path:
        if not path.exists():
            complain(f"{path}: no such file or folder")
            return EXIT_USAGE
        (scan.folder if path.is_dir() else scan.file)(path)
    if not arguments.only_paths:
        premises = _Premises.of(arguments)
        scan.folder(premises.folder)
        if is_postgresql(premises.store):
            scan.database(premises.store)
        inside = premises.folder.resolve()
        for place in registry.places(premises.folder):
            if place.path.exists() and not place.path.is_relative_to(inside):
                scan.file(place.path)
    result = scan.result
    if arguments.json:
        print_json(
            {
                "files": result.files,
                "bytes": result.bytes,
                "finds": [asdict(find) for find in result.finds],
                "unread": list(result.unread),
            }
        )
    else:
        for find in result.finds:
            print(f"{find.place}: {find.what}, written as {find.form}")
        for problem in result.unread:
            print(f"not read: {problem}")
        print(f"{len(result.finds):,} finds in {result.files:,} files, {result.bytes:,} bytes")
    return EXIT_LEFT if result.finds or result.unread else EXIT_DONE


# --- places, rotate -----------------------------------------------------------------------------------------


def _places(arguments: argparse.Namespace) -> int:
    folder = _Premises.of(arguments).folder
    if arguments.add:
        kind, path = arguments.add
        if kind not in registry.KINDS:
            complain(f"a kind of place is one of {', '.join(registry.KINDS)}, not {kind!r}")
            return EXIT_USAGE
        registry.note(folder, kind, Path(path))
    found = registry.places(folder)
    if arguments.json:
        print_json({"places": [{**asdict(place), "path": str(place.path)} for place in found]})
        return EXIT_DONE
    for place in found:
        state = "" if place.path.exists() else " (not there any more)"
        print(f"{place.kind:<7} {place.path}{state}")
    if not found:
        print("nothing was exported or backed up here")
    return EXIT_DONE


def _rotate(arguments: argparse.Namespace) -> int:
    premises = _Premises.of(arguments)
    open_secrets(premises.secrets, make=False)
    name = add_secret(premises.secrets)
    if arguments.json:
        print_json({"secret": name, "file": str(premises.secrets)})
    else:
        print(f"{premises.secrets}: secret {name} makes pseudonyms once each replica has been started again")
    return EXIT_DONE


def _new_key(arguments: argparse.Namespace) -> int:
    name = new_key(arguments.file)
    if arguments.json:
        print_json({"key": name, "file": str(arguments.file)})
    else:
        print(f"{arguments.file}: key {name} encrypts from now on; keep the file apart from the backups")
    return EXIT_DONE


def _rewrap(arguments: argparse.Namespace) -> int:
    keys = keys_of(arguments)
    if keys is None:
        complain("name the keys with --keys FILE, the new one first, the old ones below")
        return EXIT_USAGE
    done = {str(path): rewrap(path, keys) for path in arguments.file}
    if arguments.json:
        print_json({"key": keys.newest, "files": done})
        return EXIT_DONE
    for path, changed in done.items():
        print(f"{path}: {'now under' if changed else 'was already under'} key {keys.newest}")
    return EXIT_DONE


def _seal(arguments: argparse.Namespace) -> int:
    return _each_file(arguments, seal, "sealed", "in an envelope already")


def _unseal(arguments: argparse.Namespace) -> int:
    return _each_file(arguments, unseal, "unsealed", "not sealed")


def _each_file(
    arguments: argparse.Namespace, work: Callable[[Sealable, KeyEncryption], bool], did: str, was: str
) -> int:
    """Files before one that is refused stay as they have become: the same command goes on."""
    keys = keys_of(arguments)
    if keys is None:
        complain("name the keys with --keys FILE; `muster privacy new-key FILE` makes one")
        return EXIT_USAGE
    files = [file for place in arguments.path for file in files_of(place)]
    console = Console(stderr=True)
    changed = 0
    for file in track(
        files, description=did, console=console, transient=True, disable=not console.is_terminal
    ):
        changed += work(file, keys)
    if arguments.json:
        print_json({did: changed, "left": len(files) - changed})
    else:
        print(f"{changed:,} files {did}, {len(files) - changed:,} {was}")
    return EXIT_DONE


# --- arguments ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Premises:
    """Where a service keeps things. folder: the data folder."""

    store: str
    folder: Path
    secrets: Path
    erased: Path
    period_days: int
    store_keys: str

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> _Premises:
        """Raises: StoreError where it was not said."""
        store = str(location(arguments))
        folder: Path | None = arguments.data_dir
        if folder is None:
            if is_postgresql(store):
                raise StoreError("name the data folder with --data-dir: the store is on a server")
            folder = Path(store).parent
        return cls(
            store,
            folder,
            arguments.secrets or folder / secret_files.FILE_NAME,
            arguments.erased or folder / erasing.FILE_NAME,
            arguments.pseudonym_days,
            arguments.store_keys,
        )

    def eraser(self) -> Eraser:
        """Raises: SecretsRefused."""
        return Eraser(open_secrets(self.secrets, make=False), self.erased, period_days=self.period_days)

    def unserved(self) -> SqliteStore:
        """Raises: StoreError."""
        if is_postgresql(self.store):
            raise StoreError("a database is erased in while it serves: leave --stopped away")
        require_unused(Path(self.store))
        return SqliteStore.open_unserved(Path(self.store), StoreConfig(encryption_keys=self.store_keys))


def _shopper(arguments: argparse.Namespace) -> str:
    """The shopper's name; from standard input, where no list of processes shows it, for "-"."""
    return sys.stdin.readline().rstrip("\r\n") if arguments.shopper == "-" else arguments.shopper


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="muster privacy", description="Looks after shoppers' data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        add_store(added)
        added.add_argument("--data-dir", type=Path, metavar="FOLDER", help="default: the store's folder")
        added.add_argument("--secrets", type=Path, metavar="FILE", help="default: in the data folder")
        added.add_argument("--erased", type=Path, metavar="FILE", help="default: in the data folder")
        added.add_argument(
            "--pseudonym-days",
            type=int,
            choices=range(1, 3651),
            default=int(os.environ.get("MUSTER_PRIVACY__PSEUDONYM_DAYS", "90")),
            metavar="DAYS",
            help="as the replicas have it; default: MUSTER_PRIVACY__PSEUDONYM_DAYS, else 90",
        )
        return added

    erase = command("erase", _erase, "Takes one shopper out of store, exports, backups and copies.")
    erase.add_argument("--shopper", default="", metavar="ID", help="- reads it from standard input")
    erase.add_argument(
        "--target",
        default=os.environ.get("MUSTER_TARGET", "127.0.0.1:7461"),
        metavar="HOST:PORT,...",
        help="the running replicas; default: MUSTER_TARGET",
    )
    erase.add_argument("--stopped", action="store_true", help="no replica runs: erase in the file itself")
    erase.add_argument("--files-only", action="store_true", help="leave the store, look at the other files")
    command("erase-again", _again, "Erases all who were erased before, in a catalogue from a backup.")
    scan = command("scan", _scan, "Looks for a shopper in the bytes of every file; changes nothing.")
    scan.add_argument("--shopper", default="", metavar="ID", help="- reads it from standard input")
    scan.add_argument("--text", action="append", default=[], help="another text to look for; may be repeated")
    scan.add_argument("--only-paths", action="store_true", help="only the files and folders that are named")
    scan.add_argument("path", nargs="*", type=Path, metavar="PATH", help="further files and folders")
    for added in (erase, scan):
        add_keys(added)
    key = commands.add_parser("new-key", help="Draws a key for encrypted backups and puts it first.")
    key.set_defaults(run=_new_key)
    key.add_argument("file", type=Path, metavar="FILE", help="file of keys; made where there is none")
    key.add_argument("--json", action="store_true", help="print one JSON object")
    wrapping = commands.add_parser("rewrap", help="Puts encrypted backups under the newest key.")
    wrapping.set_defaults(run=_rewrap)
    add_keys(wrapping)
    wrapping.add_argument("file", type=Path, nargs="+", metavar="FILE", help="encrypted backups")
    wrapping.add_argument("--json", action="store_true", help="print one JSON object")
    for name, run, text in (
        (
            "seal",
            _seal,
            "Puts files, or all files of folders, into envelopes, in place; goes on where it was stopped.",
        ),
        ("unseal", _unseal, "Takes them out again."),
    ):
        sealing = commands.add_parser(name, help=text, description=text)
        sealing.set_defaults(run=run)
        add_keys(sealing)
        sealing.add_argument(
            "path", type=Path, nargs="+", metavar="PATH", help="files and folders, such as run/mine"
        )
        sealing.add_argument("--json", action="store_true", help="print one JSON object")
    places = command("places", _places, "Lists the files outside the store that hold shoppers' data.")
    places.add_argument("--add", nargs=2, metavar=("KIND", "PATH"), help="write a copied file down")
    command("rotate-secret", _rotate, "Draws a new secret for pseudonyms; old ones still recognise theirs.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
