"""Whether a product file is fit to be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.products.feed import (
    LIMITS,
    FeedLimitsError,
    Fitness,
    Limit,
    inspect,
    profile_of,
    read_limits,
    script_of,
)
from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import catalogue_pb2


def write(path: Path, products: list[catalogue_pb2.Product], *lines: str) -> Path:
    rows = [
        f'{one.product_id},"{one.title}",{one.price if one.HasField("price") else ""}' for one in products
    ]
    path.write_text("\n".join(["product_id,title,price", *rows, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def products() -> list[catalogue_pb2.Product]:
    return list(SyntheticCatalogue(200).products())


def test_a_good_file_is_fit(tmp_path: Path, products: list[catalogue_pb2.Product]) -> None:
    report = inspect(write(tmp_path / "a.csv", products), reference=profile_of(products))
    assert report.fitness is Fitness.FIT
    assert (report.rows, report.malformed, report.suspects) == (200, [], [])
    assert {measure.name for measure in report.measures} == {
        "malformed",
        "suspicious",
        "price_missing_shift",
        "script_shift",
        "title_words_factor",
        "price_factor",
    }


def test_rows_are_named_and_the_others_are_kept(
    tmp_path: Path, products: list[catalogue_pb2.Product]
) -> None:
    path = write(
        tmp_path / "a.csv", products, "X1,tea,-5", "X2,,3", "X3,tea", "X4,<b>tea</b>,3", "X5,tea,1e12"
    )
    report = inspect(path)
    assert [(one.row, one.column) for one in report.malformed] == [
        (201, "price"),
        (202, "title"),
        (203, None),
    ]
    assert [(one.row, one.product_id, one.suspicions[0].rule) for one in report.suspects] == [
        (204, "X4", "markup"),
        (205, "X5", "price_scale"),
    ]
    assert report.rows == 205
    told = list(report.left_out())
    assert [one["kind"] for one in told] == ["malformed"] * 3 + ["suspicious"] * 2
    assert all(one["row"] and one["problem"] for one in told)


def test_shares_above_a_limit_warn_and_refuse(tmp_path: Path, products: list[catalogue_pb2.Product]) -> None:
    def fitness(faults: int) -> Fitness:
        lines = [f"X{number},tea,-1" for number in range(faults)]
        return inspect(write(tmp_path / "a.csv", products, *lines)).fitness

    assert [fitness(faults) for faults in (0, 10, 60)] == [Fitness.FIT, Fitness.WARNED, Fitness.REFUSED]


def test_another_currency_alphabet_or_kind_of_title_is_refused_beside_what_is_served(
    tmp_path: Path, products: list[catalogue_pb2.Product]
) -> None:
    reference = profile_of(products)

    def shifted(**changes: object) -> set[str]:
        changed = []
        for product in products:
            one = catalogue_pb2.Product()
            one.CopyFrom(product)
            for name, change in changes.items():
                assert callable(change)
                if name != "price" or one.HasField("price"):
                    setattr(one, name, change(getattr(one, name)))
            changed.append(one)
        report = inspect(write(tmp_path / "b.csv", changed), reference=reference)
        return {measure.name for measure in report.measures if measure.fitness is Fitness.REFUSED}

    assert shifted() == set()
    assert "price_factor" in shifted(price=lambda price: price * 150)
    assert "script_shift" in shifted(title=lambda title: "чайник " + title.translate({101: 1077, 97: 1072}))
    assert "title_words_factor" in shifted(title=lambda title: title.split()[0])


def test_a_text_that_comes_again_is_told(tmp_path: Path) -> None:
    rows = [f"P{number},one and the same old kettle,20" for number in range(3)]
    report = inspect(write(tmp_path / "a.csv", [], *rows))
    assert [(one.row, one.suspicions[0].rule) for one in report.suspects] == [
        (2, "repeated_text"),
        (3, "repeated_text"),
    ]


def test_limits_are_read_by_name_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("[limits]\nmalformed = [0, 0.5]\n", encoding="utf-8")
    limits = read_limits(path)
    assert limits["malformed"] == Limit(0.0, 0.5)
    assert {**limits, "malformed": LIMITS["malformed"]} == dict(LIMITS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nmalformd = [0, 1]\n", "no measure is called 'malformd'"),
        ("[limits]\nmalformed = [0.5, 0.1]\n", "warn <= refuse"),
        ("[limits]\nmalformed = 3\n", "must be [warn, refuse]"),
        ("malformed = [0, 1]\n", "one table [limits]"),
        ("[limits", "cannot be read as TOML"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FeedLimitsError) as caught:
        read_limits(path)
    assert said in str(caught.value)


def test_letters_have_a_script() -> None:
    assert [script_of(one) for one in "aжあ漢한λ7 "] == [
        "latin",
        "cyrillic",
        "kana",
        "han",
        "hangul",
        "greek",
        None,
        None,
    ]
