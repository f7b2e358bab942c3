"""Edits keep ids, queries and targets sound; a label falls only where the query names what is changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import catalogue_pb2
from training.data.edits import (
    PAIR_EDITS,
    QUERY_KINDS,
    VALUE_KINDS,
    Effect,
    Pair,
    back_off,
    change_price,
    mistyped,
    names_brand,
    substitute_product,
    substitute_word,
    swap_brand,
    typo,
)
from training.data.lexicon import Lexicon, learn, whole_text, words_of

EFFECT = Effect(fallen=0.25, related=0.1)
KINDS = sorted(PAIR_EDITS)
# The kinds of the lexicon behind those edits that change a value.
VALUES = {"colour": "colour", "size": "size", "quantity": "quantity"}


@lru_cache(maxsize=1)
def shop() -> tuple[Lexicon, tuple[str, ...]]:
    """A lexicon and the texts of queries for it."""
    catalogue = SyntheticCatalogue(400, seed=2)
    lexicon = learn(catalogue.products())
    synonyms = {"kettle": ["kettles"], "water": ["waters"], "desk": ["desks"]}
    lexicon = replace(lexicon, synonyms={**lexicon.synonyms, **synonyms})
    return lexicon, tuple(query.text for query in catalogue.queries(60))


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """A pair of the shop: its queries, words of the product itself, or anything at all."""
    lexicon, queries = shop()
    product = lexicon.products[draw(st.sampled_from(sorted(lexicon.products)))]
    own = words_of(whole_text(product))
    query = draw(
        st.one_of(
            st.sampled_from(queries),
            st.lists(st.sampled_from(own), min_size=1, max_size=6).map(" ".join),
            st.text(min_size=1, max_size=30).filter(lambda text: bool(text.strip())),
            st.sampled_from(["红色连衣裙", "苹果 iphone 手机壳", "not red kettle", "12 pack"]),
        )
    )
    target = draw(st.sampled_from([0.0, 0.1, 0.25, 0.6, 1.0]))
    return Pair(query, product, target, frozenset({product.product_id}))


def apply(kind: str, pair: Pair, seed: int) -> Pair | None:
    return PAIR_EDITS[kind](pair, shop()[0], EFFECT, np.random.default_rng(seed))


checked = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", KINDS)
@checked
@given(pair=pairs(), seed=st.integers(0, 2**32))
def test_an_edit_is_sound(kind: str, pair: Pair, seed: int) -> None:
    before = pair.product.SerializeToString(deterministic=True)
    edited = apply(kind, pair, seed)
    assert pair.product.SerializeToString(deterministic=True) == before, "the pair it was given has changed"
    if edited is None:
        return
    assert edited.query.strip()
    assert 0.0 <= edited.target <= pair.target
    assert edited.note
    known = shop()[0].products
    if kind == "product":
        assert edited.product == known[edited.product.product_id]
        assert edited.product.product_id not in pair.judged
    else:
        assert edited.product.product_id == pair.product.product_id
    changed_query, changed_product = edited.query != pair.query, edited.product != pair.product
    assert (changed_query, changed_product) == ((True, False) if kind in QUERY_KINDS else (False, True))


@pytest.mark.parametrize("kind", KINDS)
@checked
@given(pair=pairs(), seed=st.integers(0, 2**32))
def test_the_same_seed_makes_the_same_edit(kind: str, pair: Pair, seed: int) -> None:
    assert apply(kind, pair, seed) == apply(kind, pair, seed)


@pytest.mark.parametrize("kind", sorted(VALUE_KINDS))
@checked
@given(pair=pairs(), seed=st.integers(0, 2**32))
def test_a_label_falls_only_where_the_query_names_what_is_changed(kind: str, pair: Pair, seed: int) -> None:
    edited = apply(kind, replace(pair, target=1.0), seed)
    if edited is None:
        return
    lexicon = shop()[0]
    if kind == "brand":
        named = names_brand(pair.query, pair.product.brand)
        assert not names_brand(whole_text(edited.product), pair.product.brand)
    else:
        asked = {one.key for one in lexicon.named(pair.query, VALUES[kind])}
        had = {one.key for one in lexicon.named(whole_text(pair.product), VALUES[kind])}
        has = {one.key for one in lexicon.named(whole_text(edited.product), VALUES[kind])}
        named = bool(asked & had)
        assert had - has, "the old value is still there"
        assert not (asked & has) - had, "the new value is one that the query asks for"
    assert edited.target == (EFFECT.fallen if named else 1.0)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - VALUE_KINDS - {"product"}))
@checked
@given(pair=pairs(), seed=st.integers(0, 2**32))
def test_other_edits_keep_the_label(kind: str, pair: Pair, seed: int) -> None:
    edited = apply(kind, pair, seed)
    assert edited is None or edited.target == pair.target


@checked
@given(
    query=st.text(alphabet="红色连衣裙苹果手机壳 ", min_size=1, max_size=12).filter(
        lambda text: bool(text.strip())
    ),
    seed=st.integers(0, 2**32),
)
def test_chinese_queries_stay_as_they_are(query: str, seed: int) -> None:
    product = next(iter(shop()[0].products.values()))
    for kind in sorted(QUERY_KINDS):
        assert apply(kind, Pair(query, product, 1.0), seed) is None


def test_only_the_latin_words_of_a_mixed_query_are_mistyped() -> None:
    for seed in range(20):
        slipped = mistyped("苹果 iphone 手机壳", frozenset(), np.random.default_rng(seed))
        assert slipped is not None and slipped != "苹果 iphone 手机壳"
        assert slipped.startswith("苹果 i") and slipped.endswith(" 手机壳")


def test_a_slip_never_makes_another_known_word() -> None:
    made = {mistyped("shirt", frozenset({"shirt"}), np.random.default_rng(seed)) for seed in range(300)}
    some = next(word for word in made if word and word != "shirt")
    again = {mistyped("shirt", frozenset({some}), np.random.default_rng(seed)) for seed in range(300)}
    assert some not in again
    assert all(word is not None and abs(len(word) - 5) <= 1 for word in made)


def test_short_words_and_numbers_are_never_mistyped() -> None:
    assert mistyped("tv 4k 1080 usb", frozenset(), np.random.default_rng(1)) is None


def product(key: str, title: str, brand: str, colour: str = "") -> catalogue_pb2.Product:
    attributes = {"color": colour} if colour else {}
    return catalogue_pb2.Product(
        product_id=key, title=title, brand=brand, category=["Shoes", "Boots"], attributes=attributes
    )


def boots() -> Lexicon:
    """Thirty boots of three brands in three colours; the word dune stands with one brand alone."""
    made = []
    for at in range(30):
        brand = ("Acme", "Zenith", "Northern Star")[at % 3]
        colour = ("red", "black", "white")[at // 3 % 3]
        model = "dune" if brand == "Zenith" else "walker"
        made.append(
            product(
                f"b{at}",
                f"{brand} {model} {colour} boots size {7 + at % 4} pack of {1 + at % 2}",
                brand,
                colour,
            )
        )
    return learn(made)


def test_another_brand_counts_against_a_product_whose_brand_was_asked_for() -> None:
    lexicon = boots()
    made = Counter(
        (edited.target, edited.product.brand)
        for seed in range(30)
        if (
            edited := swap_brand(
                Pair("acme boots", lexicon.products["b0"], 1.0), lexicon, EFFECT, np.random.default_rng(seed)
            )
        )
    )
    assert {target for target, _ in made} == {0.25}
    assert {brand for _, brand in made} == {"Zenith", "Northern Star"}


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("northern boots", "b2"),  # a part of the brand may mean it, or not
        ("dune boots", "b1"),  # one brand alone has such boots
        ("boots not acme", "b0"),
    ],
)
def test_a_brand_stays_where_the_query_may_mean_it(query: str, key: str) -> None:
    lexicon = boots()
    pair = Pair(query, lexicon.products[key], 1.0)
    assert all(swap_brand(pair, lexicon, EFFECT, np.random.default_rng(seed)) is None for seed in range(10))


def test_what_a_query_says_it_does_not_want_is_never_changed() -> None:
    lexicon = boots()
    pair = Pair("boots without red", lexicon.products["b0"], 0.1)
    assert all(apply_to(lexicon, "colour", pair, seed) is None for seed in range(10))


def apply_to(lexicon: Lexicon, kind: str, pair: Pair, seed: int) -> Pair | None:
    return PAIR_EDITS[kind](pair, lexicon, EFFECT, np.random.default_rng(seed))


def test_a_colour_changes_in_every_text_and_keeps_its_capitals() -> None:
    lexicon = boots()
    source = catalogue_pb2.Product()
    source.CopyFrom(lexicon.products["b0"])
    source.title, source.description = "RED boots", "Red leather. Not bored."
    edited = apply_to(lexicon, "colour", Pair("red boots", source, 1.0), 3)
    assert edited is not None and edited.target == 0.25
    colour = edited.product.attributes["color"]
    assert colour in ("black", "white")
    assert edited.product.title == f"{colour.upper()} boots"
    assert edited.product.description == f"{colour.capitalize()} leather. Not bored."


def test_another_quantity_is_one_that_the_catalogue_has() -> None:
    lexicon = boots()
    edited = apply_to(lexicon, "quantity", Pair("boots pack of 1", lexicon.products["b0"], 1.0), 1)
    assert edited is not None
    assert edited.target == 0.25
    assert edited.product.title.endswith("pack of 2")


def test_a_substitute_lacks_something_that_the_query_names() -> None:
    lexicon = boots()
    pair = Pair("red boots", lexicon.products["b0"], 1.0, frozenset({"b0"}))
    for seed in range(20):
        edited = substitute_product(pair, lexicon, EFFECT, np.random.default_rng(seed))
        assert edited is not None
        assert edited.target == 0.25
        assert "red" not in words_of(whole_text(edited.product))
    # Any boots are boots, and a judged product has its own label.
    generator = np.random.default_rng(0)
    assert substitute_product(replace(pair, query="boots"), lexicon, EFFECT, generator) is None
    assert (
        substitute_product(replace(pair, judged=frozenset(lexicon.products)), lexicon, EFFECT, generator)
        is None
    )
    assert substitute_product(replace(pair, target=0.25), lexicon, EFFECT, generator) is None


def test_a_synonym_takes_the_capitals_of_the_word_it_replaces() -> None:
    lexicon = replace(boots(), synonyms={"boots": ["bootees"]})
    edited = substitute_word(
        Pair("Red BOOTS", lexicon.products["b0"], 1.0), lexicon, EFFECT, np.random.default_rng(0)
    )
    assert edited is not None and edited.query == "Red BOOTEES"


def test_an_unknown_price_stays_unknown() -> None:
    lexicon = boots()
    pair = Pair("boots", lexicon.products["b0"], 1.0)
    assert change_price(pair, lexicon, EFFECT, np.random.default_rng(0)) is None


def test_a_new_price_is_within_the_stated_factor() -> None:
    lexicon = boots()
    source = catalogue_pb2.Product(product_id="x", title="boots", price=50.0)
    for seed in range(50):
        edited = change_price(Pair("boots", source, 1.0), lexicon, EFFECT, np.random.default_rng(seed))
        assert edited is not None and 50.0 / 1.6 - 0.01 <= edited.product.price <= 50.0 * 1.6 + 0.01


@checked
@given(at=st.integers(0, 399), seed=st.integers(0, 2**32), neighbours=st.integers(1, 5))
def test_a_query_made_from_a_product_is_answered_by_it(at: int, seed: int, neighbours: int) -> None:
    lexicon = shop()[0]
    source = lexicon.products[sorted(lexicon.products)[at]]
    made = back_off(source, lexicon, EFFECT, np.random.default_rng(seed), neighbours=neighbours)
    assert made == back_off(source, lexicon, EFFECT, np.random.default_rng(seed), neighbours=neighbours)
    if not made:
        return
    first, *others = made
    assert (first.product, first.target) == (source, 1.0)
    assert set(words_of(first.query)) <= set(words_of(whole_text(source)))
    assert len(others) <= neighbours
    assert {pair.query for pair in made} == {first.query}
    assert all(pair.target in (1.0, EFFECT.fallen, EFFECT.related) for pair in others)
    assert all(list(pair.product.category) == list(source.category) for pair in others)


def test_neighbours_of_a_back_off_query_are_graded_by_what_they_have() -> None:
    lexicon = boots()
    seen = set()
    for seed in range(60):
        for pair in back_off(
            lexicon.products["b0"], lexicon, EFFECT, np.random.default_rng(seed), neighbours=4
        ):
            asked = words_of(pair.query)
            wrong = ("acme" in asked and pair.product.brand != "Acme") or (
                "red" in asked and pair.product.attributes["color"] != "red"
            )
            assert pair.target == (EFFECT.fallen if wrong else 1.0)
            seen.add((("acme" in asked), ("red" in asked), pair.target))
    assert {brand_and_colour[:2] for brand_and_colour in seen} == {
        (True, False),
        (False, True),
        (True, True),
        (False, False),
    }


def test_a_typo_changes_one_word() -> None:
    lexicon = boots()
    edited = typo(
        Pair("acme walker boots", lexicon.products["b0"], 0.6), lexicon, EFFECT, np.random.default_rng(5)
    )
    assert edited is not None and edited.target == 0.6
    before, after = ["acme", "walker", "boots"], edited.query.split()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
