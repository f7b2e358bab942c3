"""A catalogue teaches its own colours, types, brands and synonyms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import catalogue_pb2
from training.data.lexicon import (
    COLOUR,
    QUANTITY,
    SIZE,
    Lexicon,
    alike,
    learn,
    one_word,
    singular,
    whole_text,
    words_of,
)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return learn(SyntheticCatalogue(600, seed=2).products())


def keys(lexicon: Lexicon, text: str, kind: str) -> list[str]:
    return [one.key for one in lexicon.named(text, kind)]


def test_colours_are_those_of_the_colour_attributes(lexicon: Lexicon) -> None:
    held = {
        product.attributes["color"] for product in lexicon.products.values() if "color" in product.attributes
    }
    assert lexicon.colours
    assert set(lexicon.colours) <= held
    assert "red" in lexicon.colours
    assert keys(lexicon, "A RED kettle, reddish or red", COLOUR) == ["red", "red"]


def test_a_word_that_mostly_means_something_else_is_no_colour() -> None:
    products = [
        catalogue_pb2.Product(
            product_id=str(at),
            title=f"Original sauce {at}",
            attributes={"color": "red" if at % 9 else "original"},
        )
        for at in range(90)
    ]
    products += [
        catalogue_pb2.Product(product_id=f"r{at}", title=f"red sauce {at}", attributes={"color": "red"})
        for at in range(20)
    ]
    assert learn(products, synonyms=False).colours == ["red"]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("hdmi cable 6 ft", SIZE, ["6 ft"]),
        ("6-foot HDMI cable", SIZE, ["6 ft"]),
        ("1/2 inch binder", SIZE, ["1/2 inch"]),
        ("potassium citrate 200mg", SIZE, ["200 mg"]),
        ("2 in 1 printer", SIZE, []),
        ("shirt, XL or large", SIZE, ["xl", "large"]),
        ("enlarged", SIZE, []),
        ("pack of 12 pens, 12-count", QUANTITY, ["12", "12"]),
        ("60 tablets", QUANTITY, ["60"]),
        ("tablet 60", QUANTITY, []),
    ],
)
def test_values_are_found_however_they_are_written(
    lexicon: Lexicon, text: str, kind: str, expected: list[str]
) -> None:
    assert keys(lexicon, text, kind) == expected


def test_an_unknown_kind_of_value_is_refused(lexicon: Lexicon) -> None:
    with pytest.raises(ValueError, match="'weight'"):
        lexicon.named("heavy", "weight")


def test_without_a_category_the_title_says_the_shelf() -> None:
    products = [
        catalogue_pb2.Product(
            product_id=f"{brand}{at}", title=f"{brand} {model} laser printer for offices", brand=brand
        )
        for brand in ("Acme", "Zenith")
        for at, model in enumerate(("fast", "quiet", "small", "plain", "bright"))
    ]
    lexicon = learn(products, synonyms=False)
    assert set(lexicon.types.values()) == {"laser printer"}
    assert set(lexicon.shelves) == {"printer"}
    assert set(lexicon.brands["printer"]) == {"Acme", "Zenith"}


def test_forms_of_one_word_become_synonyms_and_values_never_do() -> None:
    chooser = np.random.default_rng(4)
    colours, ends = ("red", "blue"), ("with lid", "for travel", "by hand")
    products = []
    for at in range(400):
        word = ("bottle", "bottles", "kettle")[at % 3]
        colour = colours[int(chooser.integers(2))]
        end = ends[int(chooser.integers(3))] if word != "kettle" else "with plug"
        before = "drinking" if word != "kettle" else "electric"
        products.append(
            catalogue_pb2.Product(
                product_id=str(at),
                title=f"{colour} {before} {word} {end}",
                category=["Home", "Kettles" if word == "kettle" else "Bottles"],
                attributes={"color": colour},
            )
        )
    found = learn(products).synonyms
    assert "bottles" in found["bottle"]
    assert "bottle" in found["bottles"]
    assert "kettle" not in found.get("bottle", ())
    assert not set(colours) & found.keys()


def test_words_of_a_brand_have_no_synonyms(lexicon: Lexicon) -> None:
    branded = {word for product in lexicon.products.values() for word in words_of(product.brand)}
    assert not branded & lexicon.synonyms.keys()
    assert not branded & {other for others in lexicon.synonyms.values() for other in others}


def test_text_without_spaces_teaches_nothing_and_breaks_nothing() -> None:
    titles = ("红色棉布连衣裙", "蓝色棉布衬衫", "不锈钢电热水壶")
    lexicon = learn(catalogue_pb2.Product(product_id=str(at), title=title) for at, title in enumerate(titles))
    assert (lexicon.types, lexicon.synonyms, lexicon.colours) == ({}, {}, [])
    assert lexicon.words == frozenset(titles)


def test_an_empty_catalogue_teaches_nothing() -> None:
    lexicon = learn([])
    assert not lexicon.words and not lexicon.shelves and not lexicon.synonyms


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("sandal", "sandals", True),
        ("theater", "theatre", True),
        ("womens", "women's", True),
        ("wired", "wireless", False),
        ("managed", "unmanaged", False),
        ("mug", "mugs", False),
    ],
)
def test_forms_of_one_word_share_their_beginning(first: str, second: str, same: bool) -> None:
    assert one_word(first, second) is one_word(second, first) is same


def test_words_are_compared_without_plural_and_possession() -> None:
    assert {singular(word) for word in ("women", "womens", "women's")} == {"women"}
    assert singular("glass") == "glass"
    assert alike("gray", "grey") and not alike("black", "white")


def test_the_whole_text_holds_every_field(lexicon: Lexicon) -> None:
    def parts(product: catalogue_pb2.Product) -> Sequence[str]:
        return (
            product.title,
            product.brand,
            *product.category,
            *product.attributes.values(),
            *product.bullets,
        )

    for product in list(lexicon.products.values())[:20]:
        assert all(part in whole_text(product).split("\n") for part in parts(product))
