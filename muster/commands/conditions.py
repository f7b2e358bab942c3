"""Options of commands that ask for products: what those must satisfy, what the request is worth."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from muster.v1 import ranking_pb2


class PriorityName(StrEnum):
    """A class of requests, as the contract names it."""

    CRITICAL = "critical"
    DEFAULT = "default"
    SHEDDABLE = "sheddable"


Brand = Annotated[list[str] | None, typer.Option("--brand", help="Any of these brands.")]
Category = Annotated[list[str] | None, typer.Option("--category", help="Any of these categories.")]
PriceMin = Annotated[float | None, typer.Option("--price-min", help="Lowest price, inclusive.")]
PriceMax = Annotated[float | None, typer.Option("--price-max", help="Highest price, inclusive.")]
InStock = Annotated[bool, typer.Option("--in-stock", help="Nothing known to be out of stock.")]
Attribute = Annotated[
    list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="Condition on an attribute.")
]
Priority = Annotated[
    PriorityName | None, typer.Option("--priority", help="Worth of this request's quality under load.")
]


def filter_of(
    brand: list[str] | None,
    category: list[str] | None,
    price_min: float | None,
    price_max: float | None,
    in_stock: bool,
    attribute: list[str] | None,
) -> ranking_pb2.Filter | None:
    """The filter that the options make; None: no condition. Raises: BadParameter."""
    from muster.client import search_filter

    attributes: dict[str, list[str]] = {}
    for condition in attribute or ():
        name, equals, value = condition.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"write --attribute NAME=VALUE, not {condition!r}")
        attributes.setdefault(name.strip(), []).append(value.strip())
    found = search_filter(
        brands=brand or (),
        categories=category or (),
        price_min=price_min,
        price_max=price_max,
        in_stock=in_stock,
        attributes=attributes,
    )
    return found if found.ByteSize() else None
