"""What an operator does with a store: ``muster catalogue verify | repair | export | restore``.

Exit codes: 0 done, or sound; 10 damaged; 2 bad usage, or refused, with what to do next; 1 the disk failed.
Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.catalogue.command_line import (
    add_keys,
    add_store,
    complain,
    keys_of,
    location,
    print_json,
    progress,
)
from server.catalogue.errors import StoreDamaged, StoreError
from server.catalogue.export import export_backup, restore_backup
from server.catalogue.location import is_postgresql
from server.catalogue.opening import open_store
from server.catalogue.repair import RepairRefused, repair
from server.catalogue.sqlite import SqliteStore
from server.catalogue.store import StoreConfig
from server.catalogue.verify import Report, verify_store
from server.privacy import erasure, places, secrets
from server.privacy.erasure import marked
from server.privacy.secrets import SecretsRefused, open_secrets

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGED = 10


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    try:
        return int(parsed.run(parsed))
    except RepairRefused as refused:
        complain(str(refused))
        if refused.intact_sequence:
            complain(
                f"the catalogue is whole up to event {refused.intact_sequence}; `muster catalogue restore"
                " BACKUP --until SEQUENCE` makes one of a moment before"
            )
        return EXIT_DAMAGED
    except StoreDamaged as damaged:
        complain(str(damaged))
        return EXIT_DAMAGED
    except StoreError as error:
        complain(str(error))
        return EXIT_USAGE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        return EXIT_USAGE if isinstance(error, FileNotFoundError | PermissionError) else EXIT_FAILED


# --- commands --------------------------------------------------------------------------------------------


def _verify(arguments: argparse.Namespace) -> int:
    store = location(arguments)
    with progress(arguments, "rows") as told:
        report = verify_store(store, told, store_keys=arguments.store_keys)
    if arguments.json:
        print_json({"sound": report.sound, **_report_values(report)})
    else:
        _show_report(report)
    return EXIT_DONE if report.sound else EXIT_DAMAGED


def _repair(arguments: argparse.Namespace) -> int:
    store = location(arguments)
    if (arguments.generation is None) != (arguments.bundle is None):
        complain("--generation and --bundle go together: a generation is read with its bundle")
        return EXIT_USAGE
    with _generation_products(arguments) as products:
        repaired = repair(
            store,
            backup=arguments.backup,
            products=products,
            keys=keys_of(arguments),
            store_keys=arguments.store_keys,
        )
    if not is_postgresql(str(store)):
        for kept in repaired.kept:
            _note(store, places.COPY, Path(kept))
        _erased_again(store, arguments.store_keys)
    if arguments.json:
        print_json(
            {
                "events": repaired.events,
                "products": repaired.products,
                "kept": repaired.kept,
            }
        )
    elif not repaired.events and not repaired.products:
        print(f"{store} is sound; nothing was changed")
    else:
        rows = len(repaired.events) + len(repaired.products)
        print(f"{store} is sound again: {rows} rows were put back, each proved by its checksum or its backup")
        if repaired.kept:
            print(f"what was there before is kept in {', '.join(repaired.kept)}")
    return EXIT_DONE


def _export(arguments: argparse.Namespace) -> int:
    store = location(arguments)
    _note(store, places.BACKUP, arguments.file)
    with progress(arguments, "records") as told:
        written = export_backup(
            store,
            arguments.file,
            until=arguments.until,
            progress=told,
            keys=keys_of(arguments),
            store_keys=arguments.store_keys,
        )
    header = written.header
    size = arguments.file.stat().st_size
    if arguments.json:
        print_json({"file": str(arguments.file), "bytes": size, "digest": written.digest, **asdict(header)})
    else:
        print(
            f"{arguments.file}: {header.records:,} records up to event {header.head_sequence:,},"
            f" {size:,} bytes"
        )
        print(f"digest {written.digest}")
    return EXIT_DONE


def _restore(arguments: argparse.Namespace) -> int:
    store = location(arguments)
    with progress(arguments, "records") as told:
        restored = restore_backup(
            arguments.file,
            store,
            until=arguments.until,
            replace=arguments.replace,
            progress=told,
            keys=keys_of(arguments),
            store_keys=arguments.store_keys,
        )
    if restored.set_aside is not None:
        _note(store, places.COPY, restored.set_aside)
    erased = _erased_again(store, arguments.store_keys)
    if arguments.json:
        values = asdict(restored)
        values["set_aside"] = str(restored.set_aside) if restored.set_aside else None
        values["erased_again"] = erased
        print_json({"store": str(store), **values})
        return EXIT_DONE
    part = "all of the backup" if restored.complete else "the backup up to there"
    print(f"{store}: {part}, up to event {restored.head_sequence:,}")
    print(f"cluster {restored.cluster_id}, epochs above {restored.epoch:,}")
    print(f"digest {restored.digest}")
    if restored.set_aside:
        print(f"the catalogue that was there is {restored.set_aside}; its generations are set aside too")
    if erased:
        print(f"{erased:,} events of shoppers who were erased after the backup were erased again")
    return EXIT_DONE


def _rewrap(arguments: argparse.Namespace) -> int:
    store = location(arguments)
    if not arguments.store_keys:
        complain("name the keys with --store-keys FILE, the new one first, the old ones below")
        return EXIT_USAGE
    with closing(open_store(store, StoreConfig(encryption_keys=arguments.store_keys))) as opened:
        wrapped = opened.rewrap()
    if arguments.json:
        print_json({"key": wrapped.key, "wrapped": wrapped.done, "left": wrapped.left})
    else:
        print(f"{wrapped.done} data keys were wrapped anew, all that can be are under key {wrapped.key} now")
    for name in wrapped.left:
        complain(f"a data key is still under key {name}, which is not among those given")
    return EXIT_DAMAGED if wrapped.left else EXIT_DONE


def _note(store: str | Path, kind: str, path: Path) -> None:
    """Write down that a file holds what shoppers did; of a database nobody here knows where."""
    if not is_postgresql(str(store)) and Path(store).parent.is_dir():
        places.note(Path(store).parent, kind, path)


def _erased_again(store: str | Path, store_keys: str) -> int:
    """Erase again whom the backup has brought back. Returns how many events.

    Raises: StoreError where somebody was erased but the secrets to tell whom are not there.
    """
    folder = Path(store).parent
    if is_postgresql(str(store)) or not marked(folder / erasure.FILE_NAME):
        return 0
    # Reads and writes Parquet: only for who has erased somebody.
    from server.privacy.rewriting import erase_unserved

    try:
        eraser = erasure.Eraser(
            open_secrets(folder / secrets.FILE_NAME, make=False), folder / erasure.FILE_NAME
        )
    except SecretsRefused as refused:
        raise StoreError(
            f"{refused}; the catalogue is restored, but shoppers who were erased after the backup are in it:"
            " `muster privacy erase-again --secrets FILE`"
        ) from refused
    with closing(SqliteStore.open_unserved(Path(store), StoreConfig(encryption_keys=store_keys))) as opened:
        events = erase_unserved(opened, eraser.trail_of_marked())
        if events:
            opened.rewrite()
    return events


@contextmanager
def _generation_products(arguments: argparse.Namespace) -> Iterator[Iterator[bytes]]:
    """The products of a generation; nothing where none was named."""
    if arguments.generation is None:
        yield iter(())
        return
    # Loads the models: only for who asks for it.
    import rankcore
    from server.generation.open import GenerationRefused, open_one

    try:
        engine = rankcore.Engine(str(arguments.bundle), runtime_library=rankcore.runtime_library(), workers=1)
    except rankcore.RankError as error:
        raise StoreError(f"bundle {arguments.bundle} refused: {error}") from error
    try:
        yield iter(open_one(engine, arguments.generation).snapshot())
    except GenerationRefused as error:
        raise StoreError(str(error)) from error
    finally:
        engine.close()


# --- arguments and output --------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="muster catalogue", description="Looks after a catalogue.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        add_store(added)
        return added

    command("verify", _verify, "Looks through every row for damage; changes nothing, replicas may run.")
    repairing = command(
        "repair",
        _repair,
        "Puts damaged and missing rows back where a copy proves them; replicas must be stopped.",
    )
    repairing.add_argument(
        "--from", dest="backup", type=Path, metavar="FILE", help="backup to take rows from"
    )
    repairing.add_argument(
        "--generation", type=Path, metavar="FOLDER", help="generation to take products from"
    )
    repairing.add_argument("--bundle", type=Path, metavar="FOLDER", help="bundle of that generation")
    command(
        "rewrap",
        _rewrap,
        "Wraps the data keys of an encrypted catalogue under the newest of --store-keys; replicas may run.",
    )
    exporting = command("export", _export, "Writes a backup, as of one moment; replicas may run.")
    exporting.add_argument("file", type=Path, metavar="FILE", help="backup to write")
    restoring = command("restore", _restore, "Makes a catalogue from a backup; replicas must be stopped.")
    restoring.add_argument("file", type=Path, metavar="FILE", help="backup to read")
    restoring.add_argument("--replace", action="store_true", help="set a file that is there aside")
    for added in (repairing, exporting, restoring):
        add_keys(added)
    for added in (exporting, restoring):
        added.add_argument(
            "--until", type=_sequence, metavar="SEQUENCE", help="only the events up to this one"
        )
    return parser


def _sequence(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _report_values(report: Report) -> dict[str, Any]:
    values = asdict(report)
    del values["snapshot_broken"]
    return values


def _show_report(report: Report) -> None:
    rows = [
        ("catalogue", report.location),
        ("cluster", f"{report.cluster_id or '-'}, schema revision {report.revision or '-'}"),
        ("snapshot", f"{report.snapshot_products:,} products at event {report.snapshot_sequence:,}"),
        ("log", f"{report.events:,} events up to {report.head_sequence:,}, epoch {report.head_epoch:,}"),
        ("folded ids", f"{report.folded_event_ids:,}"),
    ]
    if report.unsealed:
        rows.append(("unsealed", f"{report.unsealed:,} events of an older version have no checksum yet"))
    for name, text in rows:
        print(f"{name:<11} {text}")
    if report.sound:
        print(f"{'digest':<11} {report.digest}")
        print(f"{'verdict':<11} sound")
        return
    print(f"{'verdict':<11} damaged, {report.problem_count:,} problems")
    for problem in report.problems:
        print(f"  {problem.part:<10} {problem.text}")
    if report.problem_count > len(report.problems):
        print(f"  and {report.problem_count - len(report.problems):,} more")
    print("next: `muster catalogue repair --from BACKUP`, or `muster catalogue restore BACKUP`")


if __name__ == "__main__":
    sys.exit(main())
