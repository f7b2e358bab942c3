"""Behaviour: what shoppers took in order of time, read from a file and split so that nothing later is learnt
from.

Three kinds of files are recognised by their columns (Parquet, CSV, TSV or JSONL):

- sequences: `user_id`, `items` (a list). The last item is the test, the one before it the validation.
- windows: `user_id`, `history` (a list), `target_item_id`, `split` (train, dev or test). The windows of a
  user overlap: outside the test they are joined again, and each user's last target is the validation.
- events: `user_id`, `item_id`, `timestamp`. Learnt from is what happened before the first of two moments;
  each user's last event between the two is the validation, after the second the test.

Beside the file, with the same beginning of the name or alone in the folder, may lie what is known of the
items: `..._items` (`item_id` and any of `title`, `description`, `brand`, `genres`, `category`) and
`..._item_attributes` (`item_id`, `attributes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from muster.products import ProductFileError, read_rows
from training.data.splits import split_named
from training.data.tables import TEST

Items = NDArray[np.int64]
"""Places of items in the order of time, oldest first."""

VALIDATION_QUANTILE, TEST_QUANTILE = 0.8, 0.9
_TEXTS = ("title", "brand", "category", "genres", "description")
_KINDS = (("items",), ("history", "target_item_id", "split"), ("item_id", "timestamp"))
_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
_ENDS = ("_sequences", "_windows", "_ratings", "_events")


@dataclass(frozen=True)
class Cases:
    """What is to be foretold. users: ids. histories: what is known of each; targets: int64 [cases], what
    came next.
    """

    users: list[str]
    histories: list[Items]
    targets: Items

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Behaviour:
    """One set of behaviour, split. Items are numbered in an order that says nothing about them.

    item_ids: place to id. train: what is learnt from. whole: the same and the validation's targets, which is
    all that is known before the test. validation, test: see the module. kind: "sequences", "windows" or
    "events". texts: of each item, "" where nothing is known; attributes: names of each item's attributes.
    """

    name: str
    kind: str
    item_ids: list[str]
    train: list[Items]
    whole: list[Items]
    validation: Cases
    test: Cases
    texts: list[str] = field(default_factory=list)
    attributes: list[tuple[str, ...]] = field(default_factory=list)
    train_users: list[str] = field(default_factory=list)
    shoppers: int = 0

    @property
    def items(self) -> int:
        """How many there are."""
        return len(self.item_ids)

    def attribute_shares(self) -> sparse.csr_matrix | None:
        """float32 [items, kinds], each row the item's attributes, in equal shares; None where nothing is
        known.
        """
        if not any(self.attributes):
            return None
        kinds = {
            name: at for at, name in enumerate(sorted({one for names in self.attributes for one in names}))
        }
        rows = np.repeat(np.arange(self.items), [len(names) for names in self.attributes])
        columns = np.array([kinds[one] for names in self.attributes for one in names], dtype=np.int64)
        shares = np.concatenate([np.full(len(names), 1.0 / len(names)) for names in self.attributes if names])
        return sparse.csr_matrix((shares.astype(np.float32), (rows, columns)), shape=(self.items, len(kinds)))


def behaviour_file(path: Path) -> Path:
    """The file of a folder that holds behaviour, or the file itself.

    Raises: ProductFileError where there is none, or more than one.
    """
    if not path.is_dir():
        return path
    found = sorted(
        one for one in path.iterdir() if one.suffix in _SUFFIXES and one.stem.endswith((*_ENDS, "behaviour"))
    )
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.name for one in found) or "no file that ends in " + ", ".join(_ENDS)
    raise ProductFileError(path, f"it holds {names}", "Name one file of behaviour with --data")


def read_behaviour(path: str | Path, *, seed: int = 20260401, listed_only: bool = False) -> Behaviour:
    """Read and split a file of behaviour, and what lies beside it about the items.

    seed: of the items' order. Identifiers often follow the order in which items were first taken, which would
    tell a ranker that breaks ties by them what comes next. listed_only: items are those that a file beside
    names, so that the list of items says nothing of what was taken; others are left out of what shoppers
    took, and each shopper is split by himself. Raises: ProductFileError naming file, row and column.
    """
    file = behaviour_file(Path(path))
    kind, reader = _recognised(file)
    if listed_only and kind == "events":
        raise ProductFileError(
            file,
            "events are split at moments that the times of all shoppers decide, which private training "
            "cannot use",
            "Write each shopper's items as one row of sequences (user_id, items)",
        )
    rows: list[_Row] = reader(file)
    shoppers = len({row.user for row in rows if row.split != TEST})
    stem = next((file.stem.removesuffix(end) for end in _ENDS if file.stem.endswith(end)), "")
    described = _beside(file, stem, "items")
    attributed = _beside(file, stem, "item_attributes")
    texts = {} if described is None else _texts(described)
    attributes = {} if attributed is None else _attributes(attributed)
    listed = set(texts) | set(attributes)
    if listed_only:
        if not listed:
            raise ProductFileError(
                file,
                "no file beside it names the items, and private training must not take them from what "
                "shoppers took",
                f"Write {stem + '_' if stem else ''}items, a row for each item that is sold (item_id)",
            )
        rows = _of_listed(rows, listed)
    ids = sorted({item for row in rows for item in row.items} | listed)
    order = np.random.default_rng(seed).permutation(len(ids))
    item_ids = [ids[at] for at in order]
    places = {item: place for place, item in enumerate(item_ids)}
    train, whole, validation, test, users = _SPLITS[kind](rows, places, seed)
    if not len(test) or not len(validation) or not train:
        raise ProductFileError(
            file,
            f"{len(train)} sequences to learn from, {len(validation)} to validate, {len(test)} to test",
            "Each needs at least one: sequences need three items, windows the splits dev and test",
        )
    return Behaviour(
        stem or file.stem,
        kind,
        item_ids,
        train,
        whole,
        validation,
        test,
        [texts.get(item, "") for item in item_ids] if texts else [],
        [attributes.get(item, ()) for item in item_ids] if attributes else [],
        users,
        shoppers,
    )


@dataclass(frozen=True)
class _Row:
    """A user's items; split: of the last of them, which is the target (windows); times: of events, s."""

    user: str
    items: list[str]
    split: str = ""
    times: list[float] = field(default_factory=list)


def _of_listed(rows: Sequence[_Row], listed: set[str]) -> list[_Row]:
    """Without the items that are not listed; a window whose target is not goes as a whole."""
    kept = []
    for row in rows:
        items = [one for one in row.items if one in listed]
        if items and (not row.split or (row.items[-1] in listed and len(items) > 1)):
            kept.append(_Row(row.user, items, row.split))
    return kept


def _recognised(file: Path) -> tuple[str, Any]:
    for kind, columns, reader in (
        ("windows", _KINDS[1], _windows),
        ("events", _KINDS[2], _events),
        ("sequences", _KINDS[0], _sequences),
    ):
        try:
            next(read_rows(file, ("user_id", *columns)), None)
        except ProductFileError as error:
            if error.column is None:
                raise
            continue
        return kind, reader
    raise ProductFileError(
        file,
        "its columns are not those of behaviour",
        "Name them user_id and items; or user_id, history, target_item_id and split; or user_id, item_id and "
        "timestamp",
    )


def _sequences(file: Path) -> list[_Row]:
    found: dict[str, _Row] = {}
    for row, values in read_rows(file, ("user_id", "items")):
        user = str(values["user_id"])
        if user in found:
            raise ProductFileError(
                file,
                f"the user {user} comes twice",
                "Join the sequences of one user",
                row=row,
                column="user_id",
            )
        found[user] = _Row(user, _list(file, row, "items", values["items"]))
    return list(found.values())


def _windows(file: Path) -> list[_Row]:
    found = []
    for row, values in read_rows(file, ("user_id", "history", "target_item_id", "split")):
        split = split_named(file, row, values["split"])
        if values["target_item_id"] is None or not split:
            raise ProductFileError(
                file,
                "the window has no target, or no split",
                "Complete the row",
                row=row,
                column="target_item_id" if split else "split",
            )
        history = _list(file, row, "history", values["history"])
        found.append(_Row(str(values["user_id"]), [*history, str(values["target_item_id"])], split))
    return found


def _events(file: Path) -> list[_Row]:
    events: dict[str, list[tuple[float, int, str]]] = {}
    for row, values in read_rows(file, ("user_id", "item_id", "timestamp")):
        try:
            time_s = float(values["timestamp"])
        except (TypeError, ValueError) as error:
            raise ProductFileError(
                file, "the timestamp is no number", "Write seconds since 1970", row=row, column="timestamp"
            ) from error
        if values["item_id"] is None or not np.isfinite(time_s):
            raise ProductFileError(
                file, "the event is not whole", "Complete the row", row=row, column="item_id"
            )
        events.setdefault(str(values["user_id"]), []).append((time_s, row, str(values["item_id"])))
    found = []
    for user, of_user in events.items():
        of_user.sort()
        found.append(_Row(user, [item for _, _, item in of_user], times=[time for time, _, _ in of_user]))
    return found


def _list(file: Path, row: int, column: str, value: Any) -> list[str]:
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, list) or not items or any(item is None or item == "" for item in items):
        raise ProductFileError(
            file,
            "the items are no list, or one of them is empty",
            "Write a list of identifiers in the order of time",
            row=row,
            column=column,
        )
    return [str(item) for item in items]


def _beside(file: Path, stem: str, what: str) -> Path | None:
    names = [f"{stem}_{what}", what] if stem else [what]
    return next(
        (one for name in names for end in _SUFFIXES if (one := file.with_name(name + end)).is_file()), None
    )


def _texts(file: Path) -> dict[str, str]:
    found = {}
    for _, values in read_rows(file, ("item_id",), _TEXTS):
        parts = [values.get(column) for column in _TEXTS]
        shown = [
            " ".join(one) if isinstance(one, list) else str(one).replace("|", " ") for one in parts if one
        ]
        found[str(values["item_id"])] = " ".join(shown)
    return found


def _attributes(file: Path) -> dict[str, tuple[str, ...]]:
    return {
        str(values["item_id"]): tuple(str(one) for one in dict.fromkeys(values["attributes"] or ()))
        for _, values in read_rows(file, ("item_id", "attributes"))
    }


def _placed(items: Sequence[str], places: Mapping[str, int]) -> Items:
    return np.array([places[item] for item in items], dtype=np.int64)


def _cases(rows: Iterator[tuple[str, Items]]) -> Cases:
    found = list(rows)
    return Cases(
        [user for user, _ in found],
        [items[:-1] for _, items in found],
        np.array([items[-1] for _, items in found], dtype=np.int64),
    )


_Split = tuple[list[Items], list[Items], Cases, Cases, list[str]]


def _leave_one_out(rows: Sequence[_Row], places: Mapping[str, int], seed: int) -> _Split:
    users = [(row.user, _placed(row.items, places)) for row in rows]
    long = [(user, items) for user, items in users if len(items) >= 3]
    short = [(user, items) for user, items in users if len(items) < 3]
    rest = [items for _, items in short]
    return (
        [items[:-2] for _, items in long] + rest,
        [items[:-1] for _, items in long] + rest,
        _cases((user, items[:-1]) for user, items in long),
        _cases((user, items) for user, items in long),
        [user for user, _ in (*long, *short)],
    )


def _split_windows(rows: Sequence[_Row], places: Mapping[str, int], seed: int) -> _Split:
    test = [(row.user, _placed(row.items, places)) for row in rows if row.split == TEST]
    of_user: dict[str, list[list[str]]] = {}
    for row in rows:
        if row.split != TEST:
            _join(of_user.setdefault(row.user, []), row.items)
    whole = [_placed(items, places) for joined in of_user.values() for items in joined]
    held = [(user, _placed(joined[-1], places)) for user, joined in of_user.items()]
    train = [_placed(items, places) for joined in of_user.values() for items in joined[:-1]]
    users = [user for user, joined in of_user.items() for _ in joined[:-1]] + list(of_user)
    return train + [items[:-1] for _, items in held], whole, _cases(iter(held)), _cases(iter(test)), users


def _join(joined: list[list[str]], window: list[str]) -> None:
    """Add a window to a user's sequences: to the last one where it goes on from it, else as one of its
    own.
    """
    history = window[:-1]
    if joined and joined[-1][-len(history) :] == history:
        joined[-1].append(window[-1])
    else:
        joined.append(list(window))


def _split_by_time(rows: Sequence[_Row], places: Mapping[str, int], seed: int) -> _Split:
    times = np.concatenate([row.times for row in rows])
    first, second = np.quantile(times, [VALIDATION_QUANTILE, TEST_QUANTILE])
    train, whole, validation, test, users = [], [], [], [], []
    for row in rows:
        items, at = _placed(row.items, places), np.array(row.times)
        before, until = int(np.searchsorted(at, first)), int(np.searchsorted(at, second))
        if before:
            train.append(items[:before])
            users.append(row.user)
        if until:
            whole.append(items[:until])
        if until > before and until > 1:
            validation.append((row.user, items[:until]))
        if len(items) > until and len(items) > 1:
            test.append((row.user, items))
    return train, whole, _cases(iter(validation)), _cases(iter(test)), users


_SPLITS = {"sequences": _leave_one_out, "windows": _split_windows, "events": _split_by_time}
