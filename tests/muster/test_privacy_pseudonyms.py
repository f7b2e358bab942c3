"""Pseudonyms: the same within a period, others beyond it, and checkable with the secret alone."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.privacy.pseudonyms import SESSION, SHOPPER, Pseudonyms, Secret

DAY_S = 86_400.0
OLD, NEW = Secret("00000001", bytes(range(32))), Secret("00000002", bytes(32))


def test_a_shopper_keeps_a_pseudonym_for_a_period_and_has_another_one_after_it() -> None:
    names = Pseudonyms([OLD], 90)
    first = names.of(SHOPPER, "anna", 0.0)
    assert names.of(SHOPPER, "anna", 90 * DAY_S - 1) == first
    assert names.of(SHOPPER, "anna", 90 * DAY_S) != first
    assert names.of(SESSION, "anna", 0.0) != first
    assert "anna" not in first


def test_it_is_the_keyed_hash_that_the_page_says() -> None:
    key = hmac.new(OLD.value, b"muster/pseudonym", hashlib.sha256).digest()
    digest = hmac.new(key, b"shopper\x0090/1\x00anna", hashlib.sha256).hexdigest()[:32]
    assert Pseudonyms([OLD], 90).of(SHOPPER, "anna", 90 * DAY_S) == f"00000001-90-1-{digest}"


def test_an_older_secret_still_recognises_its_own_and_a_retired_one_does_not() -> None:
    before = Pseudonyms([OLD], 30).of(SHOPPER, "anna", 5.0)
    after = Pseudonyms([NEW, OLD], 90)
    assert after.of(SHOPPER, "anna", 5.0).startswith("00000002-")
    # Also after the length of a period was changed: the pseudonym says of which it is.
    assert after.belongs(before, SHOPPER, "anna")
    assert not after.belongs(before, SHOPPER, "Anna")
    assert not Pseudonyms([NEW], 90).belongs(before, SHOPPER, "anna")


def test_all_pseudonyms_of_a_time_are_listed() -> None:
    names = Pseudonyms([NEW, OLD], 10)
    listed = set(names.all_of(SHOPPER, "anna", 5 * DAY_S, 25 * DAY_S))
    assert len(listed) == 6
    assert {names.of(SHOPPER, "anna", day * DAY_S) for day in range(5, 26)} <= listed


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_two_names_share_one_and_odd_texts_are_names_too(one: str, other: str) -> None:
    names = Pseudonyms([OLD], 90)
    assert (names.of(SHOPPER, one, 1.0) == names.of(SHOPPER, other, 1.0)) == (one == other)
    assert names.belongs(names.of(SHOPPER, one, 1.0), SHOPPER, one)


@given(st.text(max_size=60))
def test_what_is_no_pseudonym_belongs_to_nobody(text: str) -> None:
    assert not Pseudonyms([OLD], 90).belongs(text, SHOPPER, "anna")


def test_there_are_no_pseudonyms_without_a_secret() -> None:
    with pytest.raises(ValueError, match="secret"):
        Pseudonyms([], 90)
    assert "000" not in repr(OLD)
