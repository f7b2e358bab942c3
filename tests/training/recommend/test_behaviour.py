"""Behaviour is read from three kinds of files and split so that nothing later is learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.products import ProductFileError
from tests.training.recommend.shop import write_sequences, write_windows
from training.recommend.behaviour import Behaviour, read_behaviour


def _written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder / name


def _named(behaviour: Behaviour, places: np.ndarray[Any, Any]) -> list[str]:
    return [behaviour.item_ids[at] for at in places]


def test_of_a_sequence_the_last_item_is_the_test_and_the_one_before_it_the_validation(tmp_path: Path) -> None:
    path = _written(
        tmp_path,
        "a_sequences.parquet",
        [{"user_id": 1, "items": [5, 6, 7, 8]}, {"user_id": 2, "items": [6, 5]}],
    )
    found = read_behaviour(path)
    assert [_named(found, one) for one in found.train] == [["5", "6"], ["6", "5"]]
    assert [_named(found, one) for one in found.validation.histories] == [["5", "6"]]
    assert _named(found, found.validation.targets) == ["7"]
    assert [_named(found, one) for one in found.test.histories] == [["5", "6", "7"]]
    assert _named(found, found.test.targets) == ["8"]
    assert [_named(found, one) for one in found.whole] == [["5", "6", "7"], ["6", "5"]]


def test_events_are_split_by_two_moments_for_all_users(tmp_path: Path) -> None:
    # Ten events at the seconds 0 to 9: the moments are 7.2 and 8.1.
    events = [("a", "x", 0), ("a", "y", 1), ("a", "z", 9), ("b", "x", 2), ("b", "y", 8)]
    events += [("c", "x", at) for at in (3, 4, 5, 6, 7)]
    rows = [{"user_id": user, "item_id": item, "timestamp": at} for user, item, at in events]
    found = read_behaviour(_written(tmp_path, "a_events.parquet", rows))
    assert [_named(found, one) for one in found.train] == [["x", "y"], ["x"], ["x"] * 5]
    assert (found.validation.users, _named(found, found.validation.targets)) == (["b"], ["y"])
    assert (found.test.users, _named(found, found.test.targets)) == (["a"], ["z"])
    assert [_named(found, one) for one in found.test.histories] == [["x", "y"]]


def test_windows_of_one_user_are_joined_so_that_no_step_counts_twice(tmp_path: Path) -> None:
    windows = [("u", ["a"], "b", "dev"), ("u", ["a", "b"], "c", "dev"), ("u", ["b", "c"], "d", "dev")]
    windows += [("u", ["x"], "y", "dev"), ("v", ["a", "b"], "d", "dev"), ("u", ["c", "d"], "e", "test")]
    columns = ("user_id", "history", "target_item_id", "split")
    rows = [dict(zip(columns, one, strict=True)) for one in windows]
    found = read_behaviour(_written(tmp_path, "a_windows.parquet", rows))
    assert [_named(found, one) for one in found.train] == [["a", "b", "c", "d"], ["x"], ["a", "b"]]
    assert [_named(found, one) for one in found.whole] == [["a", "b", "c", "d"], ["x", "y"], ["a", "b", "d"]]
    assert [_named(found, one) for one in found.validation.histories] == [["x"], ["a", "b"]]
    assert _named(found, found.validation.targets) == ["y", "d"]
    assert _named(found, found.test.targets) == ["e"]


def test_the_order_of_items_says_nothing_of_the_order_in_which_they_were_taken(tmp_path: Path) -> None:
    rows = [{"user_id": at, "items": list(range(10 * at, 10 * at + 10))} for at in range(30)]
    found = read_behaviour(_written(tmp_path, "a_sequences.parquet", rows))
    gaps = np.concatenate([np.diff(one) for one in found.train])
    assert abs(float(np.mean(gaps > 0)) - 0.5) < 0.1
    assert float(np.mean(gaps == 1)) < 0.05


def test_attributes_and_texts_are_found_beside_the_file(tmp_path: Path) -> None:
    sequences = read_behaviour(write_sequences(tmp_path))
    shares = sequences.attribute_shares()
    assert shares is not None
    at = sequences.item_ids.index("c3")
    assert shares[at].sum() == pytest.approx(1.0)
    assert sequences.texts == []
    windows = read_behaviour(write_windows(tmp_path))
    assert "camera" in windows.texts[windows.item_ids.index("c3")]
    assert "new3" in windows.item_ids


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("a.parquet", [{"user_id": 1, "thing": 2}], "columns are not those of behaviour"),
        ("a.parquet", [{"user_id": 1, "items": ["a", ""]}], "the items are no list, or one of them is empty"),
        ("a.parquet", [{"user_id": 1, "items": ["a"]}, {"user_id": 1, "items": ["b"]}], "comes twice"),
        ("a.parquet", [{"user_id": 1, "items": ["a", "b"]}], "three items"),
        ("a.parquet", [{"user_id": 1, "item_id": "a", "timestamp": "noon"}], "timestamp is no number"),
        (
            "a.parquet",
            [{"user_id": 1, "history": ["a"], "target_item_id": "b", "split": "later"}],
            "'later' is not a split",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_what_to_do(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(ProductFileError) as caught:
        read_behaviour(_written(tmp_path, name, rows))
    assert said in str(caught.value)


def test_a_folder_with_two_files_of_behaviour_asks_for_one(tmp_path: Path) -> None:
    write_sequences(tmp_path)
    write_windows(tmp_path)
    with pytest.raises(ProductFileError, match="Name one file"):
        read_behaviour(tmp_path)


@given(lists=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=7), min_size=1, max_size=8))
def test_whatever_the_sequences_the_test_is_never_learnt_from(lists: list[list[int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = [{"user_id": at, "items": items} for at, items in enumerate(lists)]
        path = _written(Path(folder), "a_sequences.parquet", rows)
        if all(len(items) < 3 for items in lists):
            with pytest.raises(ProductFileError):
                read_behaviour(path)
            return
        found = read_behaviour(path)
    counted = sum(len(one) for one in found.train)
    long = [items for items in lists if len(items) >= 3]
    assert counted == sum(len(items) for items in lists) - 2 * len(long)
    assert [int(found.item_ids[at]) for at in found.test.targets] == [items[-1] for items in long]
