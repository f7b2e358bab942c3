"""How a text may be written in a file: as it is, in other encodings, inside base64, as hex, in an address."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

_ALPHABETS = (base64.b64encode, base64.urlsafe_b64encode)


def forms_of(text: str) -> dict[str, bytes]:
    """The bytes by which a text is found, by the name of the form. Forms that are equal to others are left
    out.

    Base64 is found wherever it begins: three alignments, without the characters that what stands before
    and after has a part in. Only texts of six bytes or more have those.
    """
    raw = text.encode()
    found = {
        "raw": raw,
        "utf-16": text.encode("utf-16-le"),
        "json": json.dumps(text)[1:-1].encode(),
        "hex": raw.hex().encode(),
        "hex, upper case": raw.hex().upper().encode(),
        "url": quote(text, safe="").encode(),
        "url, form": quote_plus(text).encode(),
        "url, lower case": quote(text, safe="").lower().encode() if "%" in quote(text, safe="") else raw,
    }
    for encode in _ALPHABETS:
        for before in range(3) if len(raw) >= 6 else ():
            inner = _inside(encode, raw, before)
            found[f"base64, {encode.__name__}, {before}"] = inner
    seen: set[bytes] = set()
    return {name: data for name, data in found.items() if not (data in seen or seen.add(data))}  # type: ignore[func-returns-value]


def _inside(encode: object, raw: bytes, before: int) -> bytes:
    """What is the same of the base64 of any text that holds `raw` after `before` bytes more than a
    multiple of three.
    """
    assert callable(encode)
    encoded: bytes = encode(bytes(before) + raw).rstrip(b"=")
    # A character holds six bits: those that have a part of a byte before or after are not ours alone.
    first = -(-8 * before // 6)
    last = 8 * (before + len(raw)) // 6
    return encoded[first:last]
