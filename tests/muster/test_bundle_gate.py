"""The verdict of drills beside a bundle: about it, not of it, and worth nothing once it was touched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.bundle import (
    GATE_FILE,
    BundleDamagedError,
    BundleError,
    BundleGateError,
    Gate,
    Rehearsed,
    check_gate,
    make_key,
    read_bundle,
    read_gate,
    write_gate,
)
from tests.fixtures.tiny_bundle import build

HELD = Rehearsed("failover", "held", "", "failover --runs 3", {"rto_ms": {"p50": 50.0}})
MISSED = Rehearsed("deadline_storm", "deviated", "too many were late")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated") / "tiny"
    build(folder)
    return folder


def gate(bundle_id: str = "tiny-000000000000", *drills: Rehearsed, override: str = "") -> Gate:
    return Gate(bundle_id, "release", 1_700_000_000, "0.1.0", drills or (HELD,), {"cores": 2}, override)


def test_a_bundle_is_the_same_with_a_verdict_beside_it(bundle: Path, tmp_path: Path) -> None:
    before = read_bundle(bundle).manifest
    key = make_key(tmp_path / "key.pem")
    written = write_gate(bundle, gate(before.bundle_id), key)
    assert read_bundle(bundle).manifest == before
    found = read_gate(bundle)
    assert found == written
    check_gate(found, before.bundle_id, "release", [key.public_key])
    assert [path.name for path in bundle.parent.iterdir()] == ["tiny"]


def test_without_a_file_there_is_no_verdict(tmp_path: Path) -> None:
    assert read_gate(tmp_path) is None
    with pytest.raises(BundleGateError, match="muster drill gate"):
        check_gate(None, "tiny-000000000000", "release", [])


def test_what_was_edited_signed_by_others_or_about_something_else_is_refused(tmp_path: Path) -> None:
    key, other = make_key(tmp_path / "key.pem"), make_key(tmp_path / "other.pem")
    good = write_gate(tmp_path, gate(), key)
    trusted = [key.public_key]
    for bad, words in (
        (replace(good, drills=(HELD, HELD)), "does not fit"),
        (replace(good, override="because"), "does not fit"),
        (replace(good, signature=None), "signed by nobody"),
        (write_gate(tmp_path, gate(), other), "not trusted"),
        (write_gate(tmp_path, gate("other-000000000000"), key), "is of bundle other"),
        (write_gate(tmp_path, replace(gate(), profile="quick"), key), "'quick'"),
    ):
        with pytest.raises(BundleGateError, match=words):
            check_gate(bad, "tiny-000000000000", "release", trusted)


def test_a_drill_that_did_not_hold_closes_the_gate_and_only_a_reason_opens_it(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key.pem")
    closed = write_gate(tmp_path, gate("tiny-000000000000", HELD, MISSED), key)
    with pytest.raises(BundleGateError, match="deadline_storm deviated"):
        check_gate(closed, "tiny-000000000000", "release", [key.public_key])
    empty = write_gate(tmp_path, replace(gate(), drills=()), key)
    with pytest.raises(BundleGateError, match="there were none"):
        check_gate(empty, "tiny-000000000000", "release", [key.public_key])
    opened = write_gate(tmp_path, replace(closed, override="known, harmless"), key)
    check_gate(opened, "tiny-000000000000", "release", [key.public_key])
    assert not opened.held


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [*json.loads(gate().to_json()), "signature"]


@given(st.sampled_from(FIELDS), values)
def test_a_field_of_another_kind_is_a_damaged_file_and_never_another_error(field: str, value: object) -> None:
    text = json.loads(gate().to_json())
    text[field] = value
    try:
        found = Gate.from_json(json.dumps(text))
    except BundleError as error:
        assert error.file == GATE_FILE
    else:
        assert Gate.from_json(found.to_json()) == found


@given(st.binary(max_size=200))
def test_bytes_that_are_no_verdict_are_refused(data: bytes) -> None:
    with pytest.raises(BundleDamagedError):
        Gate.from_json(data)


def test_a_file_that_is_no_plain_file_or_far_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / GATE_FILE).symlink_to("/dev/zero")
    with pytest.raises(BundleDamagedError, match="not a plain file"):
        read_gate(tmp_path / "a")
    (tmp_path / GATE_FILE).write_bytes(b" " * (2 << 20))
    with pytest.raises(BundleDamagedError, match="larger than"):
        read_gate(tmp_path)
