"""What the commands that measure a bundle on labelled data have in common: their options and their ends."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rankcore
from muster.bundle import BundleError
from muster.products import ProductError

Result = dict[str, Any]

SEARCH, RECOMMEND = "search", "recommend"


def asked_task(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The task that a command line names with --task, "search" where it names none, and the rest of it.

    Ends the program with exit code 2 where there is no such task.
    """
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--task", choices=(SEARCH, RECOMMEND), default=SEARCH)
    given, rest = options.parse_known_args(list(argv))
    return str(given.task), rest


def parser(program: str, description: str, *, seed_of: str = "of the bootstrap") -> argparse.ArgumentParser:
    """The options that each of them has.

    seed_of: what the seed is said to draw.
    """
    options = argparse.ArgumentParser(prog=program, description=description)
    options.add_argument("bundle", type=Path, help="folder of the bundle")
    options.add_argument("--data", type=Path, required=True, help="folder with products, queries and labels")
    options.add_argument("--split", default="dev", help='split of the queries, "all" for all of them')
    options.add_argument("--map", dest="mapping", help="column map of the products (default: recognised)")
    options.add_argument("--cache", type=Path, help="folder that keeps built indexes between calls")
    options.add_argument("--seed", type=int, default=20260401, help=seed_of)
    options.add_argument("--json", action="store_true", help="print JSON alone")
    return options


def measure(
    program: str,
    given: argparse.Namespace,
    work: Callable[..., Result],
    show: Callable[[Result], None],
    **more: Any,
) -> Result | None:
    """Run `work` with the shared options and `more`, and print what it returns: by `show`, or as JSON.

    Returns: the result; None for bad input, which was told on standard error.
    """
    try:
        result = work(
            given.bundle,
            given.data,
            split=None if given.split == "all" else given.split,
            mapping=given.mapping,
            cache=given.cache,
            seed=given.seed,
            **more,
        )
    except (BundleError, ProductError, rankcore.RankError, ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return None
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    return result
