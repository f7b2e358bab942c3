"""What is personal by its form is taken out of texts; what only looks so stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.privacy.scrub import scrub
from muster.privacy.trial import generated, measure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail a.b+c@mail.example.com now", "mail [email] now"),
        ("邮箱：张三@例子.com！", "邮箱：[email]！"),
        ("write to bob [at] mail [dot] com", "write to [email]"),
        ("我的手机号是13812345678，谢谢", "我的手机号是[phone]，谢谢"),
        ("１３８１２３４５６７８", "[phone]"),
        ("1\u200b3812345678", "[phone]"),
        ("call me at 555 123 4567 or +44 20 7946 0958", "call me at [phone] or [phone]"),
        ("(415) 555-2671, 021-62345678", "[phone], [phone]"),
        ("4111 1111 1111 1111 and 5500-0000-0000-0004", "[card] and [card]"),
        ("DE89 3704 0044 0532 0130 00 please", "[iban] please"),
        ("BE68539007547034 then", "[iban] then"),
        ("身份证11010519491231002X", "身份证[identity]"),
        ("ssn 123-45-6789", "ssn [identity]"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: [token]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "[token]"),
    ],
)
def test_what_is_personal_goes(text: str, expected: str) -> None:
    assert scrub(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "size 12.5 x 30, $1,299.00, 1920x1080, v10.2.0.1",
        "ISBN 9780306406157, item B07XYZ1234, EAN 4006381333931",
        "order 100-200-3000, serial 1234567890123456",
        "4111 1111 1111 1112 is no card, 11010519491331002X has no such month",
        "000-12-3456 and 123-00-4567 were never given out",
        "DE88370400440532013000 has wrong check digits",
        "5000mAh，尺码175/92A，￥1299元，2026-11-29",
    ],
)
def test_what_only_looks_personal_stays(text: str) -> None:
    assert scrub(text).text == text
    assert scrub(text).found == {}


def test_the_shoppers_own_names_go_but_not_the_shortest() -> None:
    result = scrub("Anna.77 says 7 of 7", names=("anna.77", "7"))
    assert result.text == "[shopper] says 7 of 7"
    assert result.found == {"shopper": 1}


@given(st.text(max_size=300))
def test_any_text_is_taken_and_nothing_is_found_twice(text: str) -> None:
    once = scrub(text).text
    assert scrub(once).text == once or scrub(once).found


def test_the_measured_share_is_what_the_page_promises() -> None:
    texts = generated(1200, seed=7)
    for kind, measured in measure(texts).items():
        assert measured.planted > 100, kind
        assert measured.recall >= 0.95, (kind, measured)
        assert measured.precision >= 0.9, (kind, measured)


@pytest.mark.parametrize("piece", ["a", "eyJ", "+1 ", "a@", "a.", "DE89", "1-", "bearer ", "电话"])
def test_long_texts_without_end_come_back(piece: str) -> None:
    assert len(scrub(piece * (4096 // len(piece))).text) > 0
