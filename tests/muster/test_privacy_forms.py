"""A text is found however it was written."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

from hypothesis import given
from hypothesis import strategies as st

from muster.privacy.forms import forms_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=3, max_size=30).filter(
    lambda text: len(text.encode()) >= 6
)


def found(text: str, data: bytes) -> bool:
    return any(form in data for form in forms_of(text).values())


@given(TEXTS, st.binary(max_size=9), st.binary(max_size=9))
def test_inside_base64_wherever_it_begins(text: str, before: bytes, after: bytes) -> None:
    whole = before + text.encode() + after
    assert found(text, base64.b64encode(whole))
    assert found(text, base64.urlsafe_b64encode(whole))


@given(TEXTS)
def test_in_hex_in_addresses_in_json_and_as_it_is(text: str) -> None:
    raw = text.encode()
    for data in (raw, raw.hex().encode(), raw.hex().upper().encode(), text.encode("utf-16-le")):
        assert found(text, data)
    for written in (quote(text, safe=""), quote_plus(text), json.dumps(text)):
        assert found(text, written.encode())


def test_what_is_not_there_is_not_found() -> None:
    assert not found("canary-12345", base64.b64encode(b"canary-12346 and so on"))
    assert forms_of("abc") == {
        "raw": b"abc",
        "utf-16": b"a\0b\0c\0",
        "hex": b"616263",
    }
