"""Texts with known personal data in them, drawn from a seed, and how much of it `scrub` finds.

    python -m muster.privacy.trial --texts 2000 --seed 1

Recall: finds of what was planted. Precision: share of what was taken out that was planted; the texts also
hold what only looks personal: prices, sizes, article and order numbers, ISBN, dates, versions. Both by
kind, Chinese and English.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muster.privacy.scrub import CARD, EMAIL, IBAN, IDENTITY, PHONE, TOKEN, scrub

_ENGLISH = (
    "Great value, {} fits my desk.",
    "Arrived late. {} is what I was told to use.",
    "please write to {} thanks",
    "my details: {}; will buy again!",
    "Returned it ({}).",
    "{}",
)
_CHINESE = (
    "质量很好，{}，下次还买。",
    "快递太慢了{}请尽快联系",
    "客服让我发{}过去",
    "收到了（{}）谢谢",
    "我的信息是{}。",
    "{}",
)
_FILLERS = (
    "order 2024-118-99213",
    "item B07XYZ1234",
    "size 42.5",
    "$1,299.00",
    "ISBN 978-0-306-40615-7",
    "version 10.2.0.1",
    "2026-11-29 08:30",
    "part 100-200-3000",
    "1920x1080",
    "SKU 5551234567",
    "model WH-1000XM5",
    "订单号202411290001234",
    "型号ABC12345678",
    "尺码175/92A",
    "￥1299元",
    "5000mAh",
    "serial 1234567890123456",
    "EAN 4006381333931",
)
_LEADS_PHONE = ("call me at ", "Tel: ", "phone number is ")


@dataclass(frozen=True)
class Planted:
    """A text; what was planted in it, by kind; whether it is Chinese."""

    text: str
    secrets: tuple[tuple[str, str], ...]
    chinese: bool


def generated(texts: int, seed: int) -> list[Planted]:
    """Texts, half of them Chinese; two in three hold something personal, all may hold what only looks so."""
    draw = random.Random(seed)
    makers = sorted(_MAKERS)
    found = []
    for number in range(texts):
        chinese = number % 2 == 1
        parts: list[str] = [draw.choice(_FILLERS)]
        secrets: list[tuple[str, str]] = []
        if number % 3:
            kind = makers[number // 3 % len(makers)]
            secret = _MAKERS[kind](draw, chinese)
            secrets.append((kind, secret))
            parts.append(secret)
        draw.shuffle(parts)
        template = draw.choice(_CHINESE if chinese else _ENGLISH)
        joined = ("，" if chinese else ", ").join(parts)
        found.append(Planted(template.format(joined), tuple(secrets), chinese))
    return found


@dataclass
class Measured:
    """Counts of one kind. planted, found: of what was planted. taken: of all that was taken out as this
    kind.
    """

    planted: int = 0
    found: int = 0
    taken: int = 0

    @property
    def recall(self) -> float:
        """Share of what was planted that was found."""
        return self.found / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Share of what was taken out that was planted."""
        return min(1.0, self.found / self.taken) if self.taken else 1.0


def measure(texts: Sequence[Planted]) -> dict[str, Measured]:
    """By kind. Found means that nothing of it is left in the text but its first character at most."""
    results = {kind: Measured() for kind in sorted(_MAKERS)}
    for planted in texts:
        scrubbed = scrub(planted.text)
        for kind, count in scrubbed.found.items():
            results[kind].taken += count
        for kind, secret in planted.secrets:
            for lead in _LEADS_PHONE:
                secret = secret.removeprefix(lead)
            half = secret[: len(secret) // 2 + 2]
            results[kind].planted += 1
            results[kind].found += secret[1:] not in scrubbed.text and half not in scrubbed.text
    return results


# --- what is planted ----------------------------------------------------------------------------------------


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices("0123456789", k=count))


def _email(draw: random.Random, chinese: bool) -> str:
    name = draw.choice(("anna", "li.wei", "zhang_san", "j.smith+shop", "x9", "marta-k")) + str(
        draw.randrange(999)
    )
    domain = draw.choice(
        ("example.com", "mail.example.org", "qq.com", "163.com", "shop.example.co.uk", "例子.中国")
    )
    return f"{name}@{domain}"


def _phone(draw: random.Random, chinese: bool) -> str:
    if chinese:
        number = f"1{draw.choice('3456789')}{_digits(draw, 9)}"
        form = draw.randrange(5)
        if form == 0:
            return f"{number[:3]} {number[3:7]} {number[7:]}"
        if form == 1:
            return f"+86 {number}"
        if form == 2:
            return f"0{draw.choice(('10', '21', '755'))}-{draw.choice('23456789')}{_digits(draw, 7)}"
        if form == 3:
            return "".join(chr(ord(char) + 0xFEE0) for char in number)
        return number
    area, middle, last = draw.randrange(200, 989), draw.randrange(200, 999), _digits(draw, 4)
    return draw.choice(
        (
            f"({area}) {middle}-{last}",
            f"{area}-{middle}-{last}",
            f"+1 {area} {middle} {last}",
            f"+44 20 {_digits(draw, 4)} {_digits(draw, 4)}",
            f"{draw.choice(_LEADS_PHONE)}{area}{middle}{last}",
            f"+49 151 {_digits(draw, 8)}",
        )
    )


def _card(draw: random.Random, chinese: bool) -> str:
    start, length = draw.choice((("4", 16), ("51", 16), ("37", 15), ("62", 19), ("6011", 16)))
    digits = start + _digits(draw, length - len(start) - 1)
    total = sum(
        int(char) * (1 + place % 2) - 9 * (int(char) * (1 + place % 2) > 9)
        for place, char in enumerate(reversed(digits + "0"))
    )
    digits += str(-total % 10)
    gap = draw.choice(("", " ", "-"))
    return gap.join(digits[at : at + 4] for at in range(0, length, 4))


def _iban(draw: random.Random, chinese: bool) -> str:
    country, body = draw.choice(
        (
            ("DE", _digits(draw, 18)),
            ("GB", "WEST" + _digits(draw, 14)),
            ("FR", _digits(draw, 23)),
            ("BE", _digits(draw, 12)),
            ("NL", "ABNA" + _digits(draw, 10)),
        )
    )
    number = int("".join(str(int(char, 36)) for char in f"{body}{country}00"))
    whole = f"{country}{98 - number % 97:02d}{body}"
    return whole if draw.random() < 0.5 else " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))


def _identity(draw: random.Random, chinese: bool) -> str:
    if not chinese:
        return f"{draw.randrange(1, 665):03d}-{draw.randrange(1, 99):02d}-{draw.randrange(1, 9999):04d}"
    born = f"{draw.randrange(1940, 2010)}{draw.randrange(1, 13):02d}{draw.randrange(1, 29):02d}"
    digits = draw.choice(("110105", "310104", "440305", "510107")) + born + _digits(draw, 3)
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    check = "10X98765432"[sum(int(char) * weight for char, weight in zip(digits, weights, strict=True)) % 11]
    return digits + draw.choice((check, check.lower()))


def _token(draw: random.Random, chinese: bool) -> str:
    letters = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    long = "".join(draw.choices(letters, k=32))
    return draw.choice(
        (f"sk_{long}", f"ghp_{long}", f"Bearer {long}", f"eyJ{long[:18]}.eyJ{long[18:]}.{long[:20]}")
    )


_MAKERS: dict[str, Callable[[random.Random, bool], str]] = {
    CARD: _card,
    EMAIL: _email,
    IBAN: _iban,
    IDENTITY: _identity,
    PHONE: _phone,
    TOKEN: _token,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m muster.privacy.trial", description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    texts = generated(given.texts, given.seed)
    groups = {
        name: measure([text for text in texts if text.chinese is chinese])
        for name, chinese in (("English", False), ("Chinese", True))
    }
    if given.json:
        print(
            json.dumps(
                {
                    name: {
                        kind: {"planted": one.planted, "recall": one.recall, "precision": one.precision}
                        for kind, one in group.items()
                    }
                    for name, group in groups.items()
                },
                indent=1,
            )
        )
        return 0
    print("| texts | kind | planted | recall | precision |")
    print("|---|---|---|---|---|")
    for name, group in groups.items():
        for kind, one in group.items():
            print(f"| {name} | {kind} | {one.planted} | {one.recall:.3f} | {one.precision:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
