"""Takes personal data out of free text, Chinese or English: what can be told by its form.

Found are e-mail addresses, telephone numbers, numbers of cards (Luhn, ISO/IEC 7812-1), bank accounts
(IBAN, ISO 13616, its check digits), Chinese resident identity numbers (GB 11643: date and check
character), US social security numbers, and access tokens (JWT, bearer, long keys with a known beginning).
Each is replaced by its kind in brackets. Names and postal addresses have no form; they are not found.

Before it is looked at, a text is made plain: characters without width go, and digits, letters and signs of
full width become those of ASCII, so that neither hides a number. `docs/privacy.md` says how much is found
and how much is found wrongly, measured.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

EMAIL, PHONE, CARD, IBAN, IDENTITY, TOKEN = "email", "phone", "card", "iban", "identity", "token"
NAMED = "shopper"
KINDS = (TOKEN, EMAIL, IBAN, IDENTITY, CARD, PHONE, NAMED)

# Shorter names of shoppers are left in place: "7" would take every 7 out of what was written.
_NAME_CHARACTERS_MIN = 4


@dataclass(frozen=True)
class Scrubbed:
    """The text without what was found; found: how many of each kind, without those of 0."""

    text: str
    found: dict[str, int]


def scrub(text: str, *, names: Iterable[str] = ()) -> Scrubbed:
    """Take out what is personal; the rest of the text stays as it was, but for characters that nobody sees.

    names: that the text must not hold either, such as the shopper's own.
    """
    found: dict[str, int] = {}
    kept = text.translate(_UNSEEN)
    # Character for character, so that what is found in the one is cut out of both.
    plain = _plain(kept)
    for name in sorted({_plain(name.translate(_UNSEEN)) for name in names}, key=len, reverse=True):
        if len(name) >= _NAME_CHARACTERS_MIN:
            rule = _Rule(NAMED, re.compile(re.escape(name), re.IGNORECASE))
            kept, plain = _replace(rule, kept, plain, found)
    for rule in _RULES:
        kept, plain = _replace(rule, kept, plain, found)
    return Scrubbed(kept, found)


def _replace(rule: _Rule, kept: str, plain: str, found: dict[str, int]) -> tuple[str, str]:
    parts: list[tuple[str, str]] = []
    done = 0
    for match in rule.pattern.finditer(plain):
        # What leads to a number, as in "call me at 555 1234", is not personal.
        start = match.end("lead") if "lead" in match.re.groupindex else match.start()
        length = rule.accept(plain[start : match.end()])
        if length:
            parts.append((kept[done:start] + f"[{rule.kind}]", plain[done:start] + f"[{rule.kind}]"))
            done = start + length
            found[rule.kind] = found.get(rule.kind, 0) + 1
    parts.append((kept[done:], plain[done:]))
    return "".join(part for part, _ in parts), "".join(part for _, part in parts)


# --- making plain -------------------------------------------------------------------------------------------

# Characters that nobody sees: zero-width ones, soft hyphen, direction marks, joiners, byte order mark.
_UNSEEN = dict.fromkeys(
    [
        0xAD,
        0x34F,
        0x61C,
        0x180E,
        0xFEFF,
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x206A),
    ]
)
# But for the comma of full width, which no number has inside.
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if code != 0xFF0C} | {0x3000: 0x20, 0xA0: 0x20}


def _plain(text: str) -> str:
    if text.isascii():
        return text
    text = text.translate(_WIDE)
    # Digits of other scripts are digits to a reader.
    return "".join(
        str(unicodedata.digit(char)) if not char.isascii() and char.isdigit() else char for char in text
    )


# --- checks -------------------------------------------------------------------------------------------------


def _digits(text: str) -> str:
    return "".join(char for char in text if "0" <= char <= "9")


# By the number of digits, of the networks in use (ISO/IEC 7812-1 registers them). Thirteen digits are an
# article (EAN).
_CARD_BEGINNINGS = {
    14: ("30", "36", "38", "39"),
    15: ("34", "37"),
    16: (
        "22",
        "23",
        "24",
        "25",
        "26",
        "27",
        "35",
        "4",
        "50",
        "51",
        "52",
        "53",
        "54",
        "55",
        "56",
        "57",
        "58",
        "6",
    ),
    17: ("62",),
    18: ("62",),
    19: ("4", "6"),
}


def _card(text: str) -> int:
    """Luhn over 14 to 19 digits, not all the same, that begin as cards of that length do."""
    digits = _digits(text)
    beginnings = _CARD_BEGINNINGS.get(len(digits), ())
    if len(set(digits)) == 1 or not digits.startswith(beginnings):
        return 0
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return len(text) if total % 10 == 0 else 0


def _iban(text: str) -> int:
    """Letters as 10 to 35, the first four characters last: 1 modulo 97. A word that follows may look like
    a group more.
    """
    ends = [len(text), *sorted((match.start() for match in re.finditer("[ -]", text)), reverse=True)]
    for end in ends:
        compact = re.sub("[ -]", "", text[:end]).upper()
        if 15 <= len(compact) <= 34:
            turned = compact[4:] + compact[:4]
            if int("".join(str(int(char, 36)) for char in turned)) % 97 == 1:
                return end
    return 0


_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _resident(text: str) -> int:
    """Seventeen digits with a birth date in places 7 to 14, and the check character of GB 11643 (ISO 7064,
    MOD 11-2).
    """
    compact = re.sub("[ -]", "", text).upper()
    if len(compact) != 18 or not _is_date(compact[6:14]):
        return 0
    total = sum(int(char) * weight for char, weight in zip(compact, _RESIDENT_WEIGHTS, strict=False))
    return len(text) if "10X98765432"[total % 11] == compact[17] else 0


def _is_date(text: str) -> bool:
    try:
        return 1900 <= date(int(text[:4]), int(text[4:6]), int(text[6:])).year <= 2100
    except ValueError:
        return False


def _social_security(text: str) -> int:
    """Area, group and serial that the Social Security Administration gives out."""
    area, group, serial = re.split("[- ]", text)
    given = area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
    return len(text) if given else 0


def _phone(text: str) -> int:
    digits = _digits(text)
    return len(text) if 7 <= len(digits) <= 15 and len(set(digits)) > 1 else 0


# --- rules, in order: what is longer, or surer, first -------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """accept: of what the pattern has found, how many characters are meant; 0: nothing."""

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[str], int] = len


# Not inside a longer number or word. Chinese characters stand right beside a number, so no word boundary.
_ALONE, _END = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"
_NUMBER, _NUMBER_END = r"(?<![0-9])(?<![0-9][.,-])", r"(?![0-9])(?![.,-][0-9])"
_KEY_BEGINNINGS = (
    "sk|pk|rk|ghp|gho|ghs|ghu|github_pat|glpat|xox[abpr]|AKIA|ASIA|AIza|tok|token|secret|api[_-]?key"
)
_DOMAIN = r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}"


def _rule(
    kind: str, pattern: str, accept: Callable[[str], int] = len, flags: re.RegexFlag = re.ASCII
) -> _Rule:
    return _Rule(kind, re.compile(pattern, flags), accept)


_RULES: Sequence[_Rule] = (
    _rule(TOKEN, r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"),
    _rule(TOKEN, r"\bbearer[ :=]+[\w.~+/-]{16,}=*", flags=re.ASCII | re.IGNORECASE),
    _rule(TOKEN, _ALONE + rf"(?:{_KEY_BEGINNINGS})[-_=: ]?[A-Za-z0-9_-]{{16,}}"),
    # The local part is bounded (RFC 5321), so that no text makes the search slow. Chinese goes on without
    # a space, so of a local part in it only some characters can be meant.
    _rule(EMAIL, r"[A-Za-z0-9.!#$%&'*+/=?^`{|}~_-]{1,64}+@" + _DOMAIN, flags=re.UNICODE),
    _rule(EMAIL, r"[\u4e00-\u9fff]{1,6}@" + _DOMAIN, flags=re.UNICODE),
    _rule(
        EMAIL,
        r"[\w.+-]{1,64}+ ?[\[(](?:at|AT)[\])] ?[\w-]{1,63}"
        r"(?: ?(?:[\[(](?:dot|DOT)[\])]|\.) ?[\w-]{2,63}){1,4}",
    ),
    _rule(
        IBAN,
        _ALONE + r"[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,4})?" + _END,
        _iban,
    ),
    _rule(IDENTITY, _NUMBER + r"[1-9][0-9]{5}[ -]?[0-9]{8}[ -]?[0-9]{3}[0-9Xx]" + _END, _resident),
    _rule(IDENTITY, _NUMBER + r"[0-9]{3}([- ])[0-9]{2}\1[0-9]{4}" + _NUMBER_END, _social_security),
    _rule(CARD, _NUMBER + r"[0-9](?:[ -]?[0-9]){13,18}" + _NUMBER_END, _card),
    # With the country's code.
    _rule(PHONE, r"(?<![0-9A-Za-z+])(?:\+|00)[1-9][0-9]{0,2}(?:[ .()/-]{0,2}[0-9]){6,13}(?![0-9])", _phone),
    # Chinese mobile and fixed lines.
    _rule(PHONE, _NUMBER + r"1[3-9][0-9](?:[ -]?[0-9]{4}){2}" + _NUMBER_END, _phone),
    _rule(PHONE, _NUMBER + r"\(?0(?:10|2[0-9]|[3-9][0-9]{2})\)?[ -]?[2-9][0-9]{6,7}" + _NUMBER_END, _phone),
    # North America, with something between the parts: ten digits alone may be an article.
    _rule(
        PHONE,
        _NUMBER
        + r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}"
        + _NUMBER_END,
        _phone,
    ),
    # Named as one.
    _rule(
        PHONE,
        r"(?P<lead>(?:tel|phone|call|mobile|cell|text me|whatsapp|电话|手机|微信|号码|联系)"
        r"(?:[ :.号码是#]|number|is|me|at|on|us){0,6})[0-9](?:[ -]?[0-9]){6,14}" + _NUMBER_END,
        _phone,
        re.IGNORECASE,
    ),
)
