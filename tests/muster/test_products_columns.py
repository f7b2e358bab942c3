"""Column maps: what they accept, and what they say of faults."""

from __future__ import annotations

import contextlib
import math
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.products import ColumnMapError, builtin_maps, choose_map, limits, load_map
from muster.products.columns import FIELDS, RowValueError, parse_map
from muster.v1 import catalogue_pb2

MINIMAL = '[fields]\nproduct_id = "id"\ntitle = "name"\n'


def convert(extra: str, row: dict[str, Any]) -> catalogue_pb2.Product:
    row = {"id": "P", "name": "tea", **row}
    return parse_map(MINIMAL + extra, where="map.toml").resolve(list(row)).product(row)


def problem(extra: str, row: dict[str, Any]) -> RowValueError:
    with pytest.raises(RowValueError) as caught:
        convert(extra, row)
    return caught.value


@pytest.mark.parametrize("name", builtin_maps())
def test_every_builtin_map_is_valid(name: str) -> None:
    column_map = load_map(name)
    assert column_map.name == name
    assert {"product_id", "title"} <= set(column_map.fields)


def test_the_builtin_maps_are_those_promised() -> None:
    assert builtin_maps() == ["beir", "chorus", "esci", "escirelease", "plain", "wands"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["product_id", "title", "price"], "plain"),
        (["product_id", "title", "bullet_points", "brand", "color", "description"], "esci"),
        (["product_id", "title", "supplier", "price_cents", "attributes", "description"], "chorus"),
        (["product_id", "product_name", "product_class", "product_features"], "wands"),
        (["_id", "title", "text", "metadata"], "beir"),
        ([], "plain"),
    ],
)
def test_a_file_is_recognised_by_its_columns(columns: list[str], expected: str) -> None:
    assert choose_map(columns).name == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not toml at all", "not valid TOML"),
        ("", "no table \\[fields\\]"),
        ("fields = 3", "no table \\[fields\\]"),
        ('[fields]\ntitle = "t"', "fields.product_id is missing"),
        (MINIMAL + 'prise = "p"', "Did you mean fields.price"),
        (MINIMAL + "price = 3", "fields.price must be"),
        (MINIMAL + "price = {}", "either a column or a constant"),
        (MINIMAL + 'price = { column = "p", constant = 3 }', "either a column or a constant"),
        (MINIMAL + 'price = { column = "p", divide_by = 0 }', "divide_by"),
        (MINIMAL + 'price = { column = "p", divide_by = "3" }', "divide_by"),
        (MINIMAL + 'price = { column = "p", nan = "zero" }', "nan"),
        (MINIMAL + 'price = { column = "p", split = "," }', "unknown key fields.price.split"),
        (MINIMAL + 'brand = { column = "p", cut = 1 }', "true or false"),
        (MINIMAL + 'bullets = { column = "p", split = "" }', "must not be empty"),
        (MINIMAL + "attributes = {}", "needs a column"),
        (MINIMAL + 'attributes = { column = "a", pairs = { between = "|" } }', "needs both"),
        (MINIMAL + "attributes = { columns = { color = 3 } }", "table of texts"),
        ('delimiter = "ab"\n' + MINIMAL, "delimiter"),
        ('detect = "ab"\n' + MINIMAL, "detect"),
        ("name = 3\n" + MINIMAL, "name must be a text"),
    ],
)
def test_a_faulty_map_is_refused_with_the_key_at_fault(text: str, words: str) -> None:
    with pytest.raises(ColumnMapError, match=words) as caught:
        parse_map(text, where="map.toml")
    assert "map.toml" in str(caught.value)


def test_a_map_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(MINIMAL)
    assert load_map(path).name == "shop"
    path.write_bytes(b"\xff")
    with pytest.raises(ColumnMapError, match="UTF-8"):
        load_map(path)
    with pytest.raises(ColumnMapError, match="No such file"):
        load_map(tmp_path / "other.toml")
    with pytest.raises(ColumnMapError, match="beir, chorus, esci"):
        load_map("unheard")


def test_values_take_their_units_and_forms() -> None:
    product = convert(
        """
        brand = { constant = "Acme" }
        price = { column = "cents", divide_by = 100 }
        stock = "units"
        rating_count = "count"
        category = { column = "path", split = "/" }
        bullets = "points"
        [fields.attributes]
        column = "specs"
        columns = { color = "colour" }
        constants = { shop = "north" }
        strip_prefixes = ["t_", "n_"]
        """,
        {
            "cents": 1999,
            "units": "7",
            "count": 15.0,
            "path": "Home / Kettles /",
            "points": ["hot", None, " "],
            "specs": '{"n_size": 3.0, "t_size": "big", "wide": true, "none": null, "tags": ["a", "b"]}',
            "colour": "red",
        },
    )
    assert (product.brand, product.price, product.stock, product.rating_count) == ("Acme", 19.99, 7, 15)
    assert list(product.category) == ["Home", "Kettles"] and list(product.bullets) == ["hot"]
    assert dict(product.attributes) == {
        "size": "big",
        "wide": "true",
        "tags": "a, b",
        "color": "red",
        "shop": "north",
    }


def test_unknown_stays_unknown() -> None:
    product = convert(
        'price = "p"\nstock = "s"\nrating = "r"\nbrand = "b"', {"p": None, "s": "", "r": " ", "b": None}
    )
    assert not product.HasField("price") and not product.HasField("stock") and not product.HasField("rating")
    assert product.brand == ""


def test_zero_is_known() -> None:
    product = convert('price = "p"\nstock = "s"', {"p": 0, "s": "0"})
    assert product.HasField("price") and product.HasField("stock")


def test_pairs_are_split_and_joined_by_name() -> None:
    product = convert(
        'attributes = { column = "a", pairs = { between = "|", within = ":" } }',
        {"a": "color : red|material:oak|color: blue|nonsense|empty:|color:red"},
    )
    assert dict(product.attributes) == {"color": "red, blue, red", "material": "oak"}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("price", math.nan, "NaN"),
        ("price", "nan", "NaN"),
        ("price", math.inf, "not finite"),
        ("price", -0.5, "negative"),
        ("price", "ten", "not a number"),
        ("price", "1_000", "not a number"),
        ("price", True, "not a number"),
        ("price", [1], "not a number"),
        ("price", 10**400, "not a usable number"),
        ("rating", 5.5, "above 5"),
        ("stock", 1.5, "not a whole number"),
        ("stock", -1, "negative"),
        ("stock", 2**63, "too large"),
        ("stock", "9" * 30, "too large"),
        ("stock", "9" * 5000, "not a number"),
        ("popularity", "-1", "negative"),
        ("title", "  ", "title is empty"),
        ("title", "x" * 2049, "2,049 characters"),
        ("title", "half \ud800", "surrogate"),
        ("title", b"\xff", "UTF-8"),
        ("title", ["a"], "list"),
        ("product_id", "", "identifier is empty"),
        ("product_id", "a\nb", "control character"),
        ("product_id", "x" * 129, "129 characters"),
        ("brand", "x" * 257, "257 characters"),
        ("category", ["x"] * 17, "17 category names"),
        ("bullets", ["x"] * 65, "65 selling points"),
        ("bullets", ["x" * 4097], "4,097 characters"),
        ("attributes", "{", "not valid JSON"),
        ("attributes", "[1]", "not an object"),
        ("attributes", {"a": {"b": 1}}, "list or an object"),
        ("attributes", {"x" * 129: "v"}, "attribute name"),
        ("attributes", {"a": "x" * 1025}, "1,025 characters"),
        ("attributes", {str(i): "v" for i in range(257)}, "257 attributes"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_column(field: str, value: Any, words: str) -> None:
    column = {"product_id": "id", "title": "name"}.get(field, "c")
    extra = "" if column != "c" else f'{field} = "c"'
    found = problem(extra, {column: value})
    assert words in found.problem and found.column == column and found.action


def test_cut_shortens_and_a_description_is_always_cut() -> None:
    product = convert(
        'description = "d"\nbrand = { column = "b", cut = true }\nbullets = { column = "l", cut = true }\n'
        'attributes = { column = "a", cut = true }',
        {
            "d": "d" * 40_000,
            "b": "b" * 300,
            "l": ["x" * 5_000] * 70,
            "a": {"n" * 200: "v", **{f"k{i}": "v" * 2_000 for i in range(300)}},
        },
    )
    assert len(product.description) == limits.DESCRIPTION_CHARACTERS_MAX
    assert (len(product.brand), len(product.bullets), len(product.bullets[0])) == (256, 64, 4_096)
    assert len(product.attributes) <= 256 and len(product.attributes["k0"]) == 1_024
    assert "n" * 200 not in product.attributes


def test_nan_can_be_read_as_unknown() -> None:
    product = convert('price = { column = "p", nan = "unknown" }', {"p": math.nan})
    assert not product.HasField("price")
    assert problem('price = { column = "p", nan = "unknown" }', {"p": math.inf})


def test_a_missing_column_is_named_with_a_guess() -> None:
    column_map = parse_map(MINIMAL + 'price = "prise"', where="map.toml")
    with pytest.raises(RowValueError, match="needs this column") as caught:
        column_map.resolve(["id", "name", "price"])
    assert caught.value.column == "prise" and "Did you mean 'price'" in caught.value.action


def test_an_optional_column_may_be_missing() -> None:
    assert not convert('price = { column = "gone", optional = true }', {}).HasField("price")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=10)
    | st.text(alphabet=st.characters(categories=["Cs", "Cc"]), max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_value_becomes_a_valid_product_or_is_refused(row: dict[str, Any]) -> None:
    column_map = load_map("plain")
    try:
        product = column_map.resolve([*FIELDS]).product(row)
    except RowValueError as refused:
        assert refused.column in FIELDS and refused.problem and refused.action
        return
    assert 1 <= len(product.product_id) <= 128 and 1 <= len(product.title) <= 2_048
    for name in ("price", "rating", "popularity"):
        assert math.isfinite(getattr(product, name)) and getattr(product, name) >= 0
    assert product.stock >= 0 and product.rating_count >= 0 and product.rating <= 5
    assert catalogue_pb2.Product.FromString(product.SerializeToString()) == product


@given(st.text(alphabet=string.printable, max_size=200))
def test_any_text_is_a_map_or_a_column_map_error(text: str) -> None:
    with contextlib.suppress(ColumnMapError):
        parse_map(text, where="map.toml")


@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "extra"]),
        st.sampled_from(
            ['"c"', "3", "true", '{ column = "c" }', "{ constant = 1 }", '{ columns = { a = "c" } }']
        ),
    )
)
def test_any_table_of_fields_is_a_map_or_a_column_map_error(fields: dict[str, str]) -> None:
    text = "[fields]\n" + "\n".join(f"{name} = {value}" for name, value in fields.items())
    with contextlib.suppress(ColumnMapError):
        assert {"product_id", "title"} <= set(parse_map(text, where="map.toml").fields)
