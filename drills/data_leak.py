"""Drill: texts that mark shoppers are sent everywhere a caller can put one, and looked for everywhere
afterwards.

    python -m drills.data_leak --json --journal DIR
    python -m drills.data_leak --kind encrypted      with the store encrypted at rest, alone
    python -m drills.data_leak --without scrub       the control: must deviate
    python -m drills.data_leak --without keys        the control of the encryption: must deviate

Marked names of shoppers and visits, e-mail addresses, telephone and card numbers, identity numbers and
tokens go into searches, into metadata, into feedback and its comments, and into what must be refused. Then
feedback and a backup are exported, and every file of the data folder, the logs, the metrics, the answers
and refusals, the exports and the journal are searched for each text: as it is, and in base64, hex, JSON
and address form.

Then the same on replicas whose store is encrypted (`catalogue.encryption_keys`), with marked texts of
products and of a comment beside: the files of the store, log, snapshot, feedback and write-ahead log, are
searched for these too, which a store keeps on purpose. A backup shows that it does.

Hypothesis: none is found; no read fails and no acknowledged write is lost meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement
from drills.failover import Rehearsal
from drills.faults.canaries import RETENTION_EVENTS_MAX, Canaries, fresh_seed, look, new_keys
from drills.journal import Journal
from drills.judges.leak import LEAK_FIGURES, judge_leaks
from drills.rehearsal import Changes, Rehearsable

NAME = "data_leak"
HYPOTHESIS = (
    "of marked names, addresses, numbers and tokens in requests, metadata and feedback none is in any file,"
    " log, metric, refusal or export afterwards, in whatever form; an encrypted store's files hold no text of"
    " products or comments either"
)
EMPTY: dict[str, Any] = {"runs": 0, **LEAK_FIGURES}
PLAIN, ENCRYPTED = "plain", "encrypted"
SCRUB, KEYS = "scrub", "keys"


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The canaries as a value. given.part: PLAIN or ENCRYPTED."""
    encrypted, unlocked = given.part == ENCRYPTED, given.without == KEYS
    canaries = Canaries(
        fresh_seed(),
        store_keys=str(keys_of(given)) if encrypted and not unlocked else "",
        unlocked=encrypted and unlocked,
    )

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        failover.collect_log(rehearsal, journal)
        look(rehearsal, journal, canaries)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=1.0, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=canaries,
        judge=judge_leaks,
        collect=collect,
    )


def keys_of(given: argparse.Namespace) -> Path:
    """The file of keys of this part."""
    folder: Path = given.folder
    return folder.resolve() / "store.keys"


def parts(given: argparse.Namespace) -> Sequence[str]:
    """Both kinds of store; of a control, the one that it is about."""
    if given.without:
        return (PLAIN,) if given.without == SCRUB else (ENCRYPTED,)
    return (given.kind,) if given.kind else (PLAIN, ENCRYPTED)


def changes(given: argparse.Namespace) -> Changes:
    """With metrics, everything logged, and a lease that a busy machine does not end; an encrypted store with
    keys of its own, and folded early."""
    settings: dict[str, Any] = {
        "lease": {"ttl_ms": 5000},
        "metrics": {"listen": "127.0.0.1:0"},
        "log": {"level": "debug"},
    }
    if given.part != ENCRYPTED:
        return Changes(settings=settings, noted={"kind": given.part})
    catalogue: dict[str, Any] = {"retention_events_max": RETENTION_EVENTS_MAX}
    if given.without != KEYS:
        catalogue["encryption_keys"] = str(keys_of(given))

    @contextlib.contextmanager
    def around(folder: Path) -> Iterator[None]:
        new_keys(keys_of(given))
        yield

    return Changes(settings={**settings, "catalogue": catalogue}, around=around, noted={"kind": given.part})


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['leaks']} finds of {figures['canaries']} canaries in {figures['files']} files and answers "
        f"({figures['searched_mib']} MiB), {figures['recorded']} events of feedback recorded"
        + (f"; {figures['store_files']} files of the store" if figures["store_files"] else "")
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument(
        "--kind", choices=(PLAIN, ENCRYPTED), help="of store (default: plain, then encrypted)"
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    parts=parts,
    shown=shown,
    protections=(SCRUB, KEYS),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
