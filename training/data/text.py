"""How a product becomes text: the rule that travels in a bundle's text.json."""

from __future__ import annotations

from collections.abc import Sequence

from muster.v1 import catalogue_pb2


def product_text(product: catalogue_pb2.Product, fields: Sequence[str]) -> str:
    """The text of the named fields, in that order, empty ones left out, joined by one space.

    category is its path joined by " > ", bullets are joined by ". ", attributes are "name value" pairs
    sorted by name and joined by ", ". Raises: ValueError for an unknown field.
    """
    parts = []
    for field in fields:
        if field == "category":
            part = " > ".join(product.category)
        elif field == "bullets":
            part = ". ".join(product.bullets)
        elif field == "attributes":
            part = ", ".join(f"{name} {product.attributes[name]}" for name in sorted(product.attributes))
        elif field in ("title", "brand", "description"):
            part = getattr(product, field)
        else:
            raise ValueError(f"no product field is called {field!r}")
        if part:
            parts.append(part)
    return " ".join(parts)
