"""Column maps: which column of a file feeds which field of a product.

A map is a TOML file; the built-in ones lie in `maps/` and show the form:

    name = "shop"
    detect = ["sku", "name"]            # columns by which a file is recognised; empty: never
    delimiter = ";"                     # CSV only; default: comma, or tab for .tsv

    [fields]
    product_id = "sku"                                       # a column
    title = { column = "name", when_empty = "text", cut = true }
    brand = { constant = "Acme" }
    category = { column = "path", split = "/" }              # or a column that already holds lists
    price = { column = "price_cents", divide_by = 100, nan = "unknown" }
    stock = { column = "units", optional = true }

    [fields.attributes]
    column = "specs"                                         # JSON object, or "name:value|..." with `pairs`
    columns = { color = "colour" }                           # attribute name = column
    constants = { shop = "north" }
    strip_prefixes = ["t_", "n_"]                            # the first wins where names become equal

A column that the file lacks is an error unless `optional = true`. Values beyond a limit are refused, unless
`cut = true`; a description is always cut. `nan = "unknown"` reads NaN as an unknown number; by default it is
refused.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from muster.products import limits
from muster.products.errors import ColumnMapError
from muster.v1 import catalogue_pb2

TEXT_FIELDS = ("product_id", "title", "brand", "description")
LIST_FIELDS = ("category", "bullets")
NUMBER_FIELDS = ("price", "rating", "popularity")
INTEGER_FIELDS = ("stock", "rating_count")
FIELDS = (*TEXT_FIELDS, *LIST_FIELDS, *NUMBER_FIELDS, *INTEGER_FIELDS, "attributes")

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_NOT_A_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_DESCRIPTIONS: dict[str, str] = {
    "price": "a price is a finite number of at least 0; leave it empty where it is unknown",
    "rating": "a rating is a number from 0 to 5; leave it empty where it is unknown",
    "popularity": "popularity is a finite number of at least 0; leave it empty where it is unknown",
    "stock": "stock is a whole number of at least 0; leave it empty where it is unknown",
    "rating_count": "a rating count is a whole number of at least 0; leave it empty where it is unknown",
}


class RowValueError(Exception):
    """One value of one row cannot become part of a product; the reader adds file and row."""

    def __init__(self, column: str | None, problem: str, action: str) -> None:
        super().__init__(problem)
        self.column = column
        self.problem = problem
        self.action = action


@dataclass(frozen=True)
class FieldSource:
    """Where one field other than the attributes comes from; the names are the keys of the TOML form."""

    column: str | None = None
    alternatives: tuple[str, ...] = ()
    when_empty: str | None = None
    constant: str | float | int | None = None
    optional: bool = False
    split: str | None = None
    divide_by: float = 1.0
    nan: str = "refuse"
    cut: bool = False


@dataclass(frozen=True)
class AttributeSource:
    """Where the attributes come from; the names are the keys of the TOML form."""

    column: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    between: str | None = None
    within: str | None = None
    strip_prefixes: tuple[str, ...] = ()
    optional: bool = False
    cut: bool = False


@dataclass(frozen=True)
class ColumnMap:
    """A column map that has been checked. `where` names its file in messages."""

    name: str
    where: str
    fields: Mapping[str, FieldSource]
    attributes: AttributeSource | None
    description: str = ""
    detect: tuple[str, ...] = ()
    delimiter: str | None = None

    def resolve(self, columns: Collection[str]) -> RowConverter:
        """Bind the map to the columns of a file.

        Raises: RowValueError (with the column) if the file lacks one that the map needs.
        """
        return RowConverter(self, columns)


class RowConverter:
    """Turns rows of one file into products. `columns` lists the columns it reads, each once."""

    def __init__(self, column_map: ColumnMap, columns: Collection[str]) -> None:
        self._map = column_map
        self._available = columns
        wanted: list[str] = []
        self._setters: list[Callable[[Mapping[str, Any], catalogue_pb2.Product], None]] = []
        for name, source in column_map.fields.items():
            column = self._pick(source.column, source.alternatives, source.optional)
            fallback = source.when_empty if source.when_empty in columns else None
            wanted += [c for c in (column, fallback) if c is not None]
            if column is not None or fallback is not None or source.constant is not None:
                self._setters.append(_setter(name, source, column, fallback))
        if column_map.attributes is not None:
            attributes = column_map.attributes
            column = self._pick(attributes.column, (), attributes.optional)
            single = {
                name: picked
                for name, wish in attributes.columns.items()
                if (picked := self._pick(wish, (), attributes.optional)) is not None
            }
            wanted += [c for c in (column, *single.values()) if c is not None]
            self._setters.append(_attribute_setter(attributes, column, single))
        self.columns: list[str] = list(dict.fromkeys(wanted))

    def _pick(self, column: str | None, alternatives: Sequence[str], optional: bool) -> str | None:
        if column is None:
            return None
        for name in (column, *alternatives):
            if name in self._available:
                return name
        if optional:
            return None
        close = difflib.get_close_matches(column, list(self._available), n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        present = ", ".join(sorted(self._available)[:20]) or "none"
        raise RowValueError(
            column,
            f"the column map {self._map.name!r} needs this column, which the file lacks (it has: {present})",
            f"{hint}Name the right column in a map of your own and pass it with --map FILE",
        )

    def product(self, row: Mapping[str, Any]) -> catalogue_pb2.Product:
        """Convert one row (column name to value; absent and None mean unknown).

        Raises: RowValueError naming the column.
        """
        product = catalogue_pb2.Product()
        for setter in self._setters:
            setter(row, product)
        return product


def builtin_maps() -> list[str]:
    """Names of the maps that come with Muster."""
    folder = resources.files("muster.products") / "maps"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_map(name_or_path: str | Path) -> ColumnMap:
    """Read a built-in map by its name, or a TOML file by its path.

    Raises: ColumnMapError.
    """
    text = str(name_or_path)
    if re.fullmatch(r"[a-z]+", text):
        names = builtin_maps()
        if text in names:
            source = resources.files("muster.products") / "maps" / f"{text}.toml"
            return parse_map(source.read_text(encoding="utf-8"), where=f"{text}.toml")
        if not Path(text).exists():
            raise ColumnMapError(
                f"no column map is called {text!r}. Use one of {', '.join(names)}, or the path of a TOML file"
            )
    path = Path(text)
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ColumnMapError(
            f"{path}: not UTF-8 at byte {error.start}. Save the column map as UTF-8"
        ) from error
    except OSError as error:
        raise ColumnMapError(
            f"{path}: {error.strerror or error}. Pass the path of a TOML column map, "
            f"or one of {', '.join(builtin_maps())}"
        ) from error
    return parse_map(content, where=text)


def parse_map(text: str, *, where: str) -> ColumnMap:
    """Check the TOML text of a column map. `where` names it in messages.

    Raises: ColumnMapError naming the key at fault.
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ColumnMapError(f"{where}: not valid TOML: {error}. Correct the file") from error
    _known_keys(raw, ("name", "description", "detect", "delimiter", "fields"), where, "")
    fields = raw.get("fields")
    if not isinstance(fields, dict):
        raise ColumnMapError(
            f"{where}: there is no table [fields]. Add one with at least product_id and title"
        )
    _known_keys(fields, FIELDS, where, "fields.")
    for name in ("product_id", "title"):
        if name not in fields:
            raise ColumnMapError(f"{where}: fields.{name} is missing. Name the column that holds it")
    sources = {
        name: _field_source(name, value, where) for name, value in fields.items() if name != "attributes"
    }
    attributes = _attribute_source(fields["attributes"], where) if "attributes" in fields else None
    delimiter = raw.get("delimiter")
    if delimiter is not None and (
        not isinstance(delimiter, str)
        or len(delimiter) != 1
        or delimiter in '"\r\n'
        or not delimiter.isascii()
    ):
        raise ColumnMapError(f"{where}: delimiter must be one plain character, not {delimiter!r}")
    return ColumnMap(
        name=_text_of(raw.get("name", Path(where).stem), where, "name"),
        where=where,
        fields=sources,
        attributes=attributes,
        description=_text_of(raw.get("description", ""), where, "description"),
        detect=_texts_of(raw.get("detect", []), where, "detect"),
        delimiter=delimiter,
    )


def choose_map(columns: Collection[str]) -> ColumnMap:
    """The built-in map that recognises most of these columns; `plain` where none recognises them all."""
    best = load_map("plain")
    for name in builtin_maps():
        candidate = load_map(name)
        known = set(candidate.detect)
        if known and known <= set(columns) and len(known) > len(best.detect):
            best = candidate
    return best


# -- the TOML form ----------------------------------------------------------


def _known_keys(table: Mapping[str, object], known: Sequence[str], where: str, prefix: str) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {prefix}{close[0]}?" if close else f"Known are {', '.join(known)}"
            raise ColumnMapError(f"{where}: unknown key {prefix}{key}. {hint}")


def _text_of(value: object, where: str, key: str) -> str:
    if not isinstance(value, str):
        raise ColumnMapError(f"{where}: {key} must be a text, not {value!r}")
    return value


def _texts_of(value: object, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ColumnMapError(f"{where}: {key} must be a list of texts, not {value!r}")
    return tuple(value)


def _flag_of(value: object, where: str, key: str) -> bool:
    if not isinstance(value, bool):
        raise ColumnMapError(f"{where}: {key} must be true or false, not {value!r}")
    return value


def _texts_by_name(value: object, where: str, key: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ColumnMapError(f"{where}: {key} must be a table of texts, not {value!r}")
    return dict(value)


def _field_source(name: str, value: object, where: str) -> FieldSource:
    key = f"fields.{name}"
    if isinstance(value, str):
        value = {"column": value}
    if not isinstance(value, dict):
        raise ColumnMapError(f"{where}: {key} must be the name of a column or a table, not {value!r}")
    known = ["column", "alternatives", "when_empty", "constant", "optional"]
    known += ["split"] if name in LIST_FIELDS else []
    known += ["divide_by", "nan"] if name in NUMBER_FIELDS + INTEGER_FIELDS else ["cut"]
    _known_keys(value, known, where, f"{key}.")
    if ("column" in value) == ("constant" in value):
        raise ColumnMapError(f"{where}: {key} needs either a column or a constant")
    constant = value.get("constant")
    if isinstance(constant, bool) or not isinstance(constant, str | int | float | None):
        raise ColumnMapError(f"{where}: {key}.constant must be a text or a number, not {constant!r}")
    divide_by = value.get("divide_by", 1.0)
    if isinstance(divide_by, bool) or not isinstance(divide_by, int | float) or not 0 < divide_by < math.inf:
        raise ColumnMapError(f"{where}: {key}.divide_by must be a number above 0, not {divide_by!r}")
    nan = value.get("nan", "refuse")
    if nan not in ("refuse", "unknown"):
        raise ColumnMapError(f'{where}: {key}.nan must be "refuse" or "unknown", not {nan!r}')
    split = value.get("split")
    if split is not None and not _text_of(split, where, f"{key}.split"):
        raise ColumnMapError(f"{where}: {key}.split must not be empty")
    return FieldSource(
        column=None if "column" not in value else _text_of(value["column"], where, f"{key}.column"),
        alternatives=_texts_of(value.get("alternatives", []), where, f"{key}.alternatives"),
        when_empty=(
            None if "when_empty" not in value else _text_of(value["when_empty"], where, f"{key}.when_empty")
        ),
        constant=constant,
        optional=_flag_of(value.get("optional", False), where, f"{key}.optional"),
        split=split,
        divide_by=float(divide_by),
        nan=nan,
        cut=_flag_of(value.get("cut", False), where, f"{key}.cut") or name == "description",
    )


def _attribute_source(value: object, where: str) -> AttributeSource:
    key = "fields.attributes"
    if isinstance(value, str):
        value = {"column": value}
    if not isinstance(value, dict):
        raise ColumnMapError(f"{where}: {key} must be the name of a column or a table, not {value!r}")
    _known_keys(
        value,
        ("column", "columns", "constants", "pairs", "strip_prefixes", "optional", "cut"),
        where,
        f"{key}.",
    )
    pairs = _texts_by_name(value.get("pairs", {}), where, f"{key}.pairs")
    _known_keys(pairs, ("between", "within"), where, f"{key}.pairs.")
    if pairs and not (pairs.get("between") and pairs.get("within")):
        raise ColumnMapError(f'{where}: {key}.pairs needs both, as in {{ between = "|", within = ":" }}')
    source = AttributeSource(
        column=None if "column" not in value else _text_of(value["column"], where, f"{key}.column"),
        columns=_texts_by_name(value.get("columns", {}), where, f"{key}.columns"),
        constants=_texts_by_name(value.get("constants", {}), where, f"{key}.constants"),
        between=pairs.get("between"),
        within=pairs.get("within"),
        strip_prefixes=_texts_of(value.get("strip_prefixes", []), where, f"{key}.strip_prefixes"),
        optional=_flag_of(value.get("optional", False), where, f"{key}.optional"),
        cut=_flag_of(value.get("cut", False), where, f"{key}.cut"),
    )
    if source.column is None and not source.columns and not source.constants:
        raise ColumnMapError(f"{where}: {key} needs a column, columns or constants")
    return source


# -- values ----------------------------------------------------------


def _text(value: object, column: str | None) -> str:
    """A value as text without surrounding white space; unknown becomes empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, float):
        if math.isnan(value):
            return ""
        text = str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    elif isinstance(value, bytes):
        try:
            text = value.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise RowValueError(
                column, f"broken UTF-8 at byte {error.start} of the value", "Save the text as UTF-8"
            ) from error
    elif isinstance(value, list | tuple | dict):
        raise RowValueError(
            column, "a list or an object stands where a text belongs", "Map a column of texts to this field"
        )
    else:
        try:
            text = str(value)
        except ValueError as error:
            raise RowValueError(column, "the number has too many digits", "Correct the value") from error
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowValueError(
                column,
                f"broken text: half of a surrogate pair at character {error.start + 1}",
                "Write the text as valid UTF-8",
            ) from error
    return text


def _limited(text: str, most: int, cut: bool, column: str | None, what: str) -> str:
    if len(text) <= most:
        return text
    if cut:
        return text[:most].rstrip()
    raise RowValueError(
        column,
        f"{what} has {len(text):,} characters, at most {most:,} are allowed",
        "Shorten it, or set cut = true for this field in the column map",
    )


def _number(value: object, name: str, source: FieldSource, column: str | None) -> float | None:
    action = _DESCRIPTIONS[name][0].upper() + _DESCRIPTIONS[name][1:]
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if _NOT_A_NUMBER.fullmatch(text):
            number = math.nan if "nan" in text.lower() else math.inf
        elif _NUMBER.fullmatch(text) and len(text) <= 400:
            number = float(text)
        else:
            raise RowValueError(column, f"{_short(text)} is not a number", action)
    elif isinstance(value, bool | list | tuple | dict | bytes):
        raise RowValueError(column, f"{_short(value)} is not a number", action)
    else:
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError) as error:
            raise RowValueError(column, f"{_short(value)} is not a usable number", action) from error
    if math.isnan(number) and source.nan == "unknown":
        return None
    number /= source.divide_by
    if not math.isfinite(number):
        written = "NaN" if math.isnan(number) else "not finite"
        extra = ', or set nan = "unknown" for this field in the column map' if math.isnan(number) else ""
        raise RowValueError(column, f"the {name.replace('_', ' ')} is {written}", action + extra)
    if number < 0:
        raise RowValueError(column, f"the {name.replace('_', ' ')} is negative ({number:g})", action)
    if name == "rating" and number > limits.RATING_MAX:
        raise RowValueError(column, f"the rating {number:g} is above 5", action)
    return number + 0.0  # a negative zero becomes a plain one


def _integer(value: object, name: str, source: FieldSource, column: str | None) -> int | None:
    action = _DESCRIPTIONS[name][0].upper() + _DESCRIPTIONS[name][1:]
    if isinstance(value, int) and not isinstance(value, bool) and source.divide_by == 1.0 and value >= 0:
        if value > limits.INT64_MAX:
            raise RowValueError(column, f"the {name.replace('_', ' ')} is too large for 64 bits", action)
        return value
    number = _number(value, name, source, column)
    if number is None:
        return None
    if not number.is_integer():
        raise RowValueError(column, f"the {name.replace('_', ' ')} {number:g} is not a whole number", action)
    if number >= 2.0**63:  # INT64_MAX itself has no exact float
        raise RowValueError(column, f"the {name.replace('_', ' ')} is too large for 64 bits", action)
    return int(number)


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or isinstance(value, bool) else "this number"
    return text if len(text) <= 60 else text[:57] + "..."


def _names(value: object, source: FieldSource, column: str | None) -> list[str]:
    if isinstance(value, list | tuple):
        items: Iterable[object] = value
    else:
        text = _text(value, column)
        items = text.split(source.split) if source.split else [text]
    return [text for item in items if (text := _text(item, column))]


def _setter(
    name: str, source: FieldSource, column: str | None, fallback: str | None
) -> Callable[[Mapping[str, Any], catalogue_pb2.Product], None]:
    def raw(row: Mapping[str, Any]) -> tuple[Any, str | None]:
        if column is None and fallback is None:
            return source.constant, None
        value = row.get(column) if column is not None else None
        if fallback is not None and (value is None or (isinstance(value, str) and not value.strip())):
            return row.get(fallback), fallback
        return value, column

    def set_text(row: Mapping[str, Any], product: catalogue_pb2.Product) -> None:
        value, place = raw(row)
        text = _text(value, place)
        if name == "product_id":
            _check_id(text, place)
        elif name == "title":
            if not text:
                raise RowValueError(place, "the title is empty", "Give each product a title")
            text = _limited(text, limits.TITLE_CHARACTERS_MAX, source.cut, place, "the title")
        elif name == "brand":
            text = _limited(text, limits.BRAND_CHARACTERS_MAX, source.cut, place, "the brand")
        else:
            text = _limited(text, limits.DESCRIPTION_CHARACTERS_MAX, True, place, "the description")
        setattr(product, name, text)

    most_items, most_characters, what = (
        (limits.CATEGORY_NAMES_MAX, limits.CATEGORY_CHARACTERS_MAX, "category name")
        if name == "category"
        else (limits.BULLETS_MAX, limits.BULLET_CHARACTERS_MAX, "selling point")
    )

    def set_list(row: Mapping[str, Any], product: catalogue_pb2.Product) -> None:
        value, place = raw(row)
        names = _names(value, source, place)
        if len(names) > most_items:
            if not source.cut:
                raise RowValueError(
                    place,
                    f"{len(names)} {what}s, at most {most_items} are allowed",
                    "Shorten the list, or set cut = true for this field in the column map",
                )
            del names[most_items:]
        target = product.category if name == "category" else product.bullets
        target.extend(_limited(text, most_characters, source.cut, place, f"a {what}") for text in names)

    def set_number(row: Mapping[str, Any], product: catalogue_pb2.Product) -> None:
        value, place = raw(row)
        number = _number(value, name, source, place)
        if number is not None:
            setattr(product, name, number)

    def set_integer(row: Mapping[str, Any], product: catalogue_pb2.Product) -> None:
        value, place = raw(row)
        number = _integer(value, name, source, place)
        if number is not None:
            setattr(product, name, number)

    if name in TEXT_FIELDS:
        return set_text
    if name in LIST_FIELDS:
        return set_list
    return set_number if name in NUMBER_FIELDS else set_integer


def _check_id(text: str, column: str | None) -> None:
    action = "Give each product an identifier of 1 to 128 characters without control characters"
    if not text:
        raise RowValueError(column, "the product identifier is empty", action)
    if len(text) > limits.PRODUCT_ID_CHARACTERS_MAX:
        raise RowValueError(column, f"the product identifier has {len(text):,} characters", action)
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise RowValueError(column, "the product identifier has a control character", action)


def _attribute_setter(
    source: AttributeSource, column: str | None, single: Mapping[str, str]
) -> Callable[[Mapping[str, Any], catalogue_pb2.Product], None]:
    prefixes = source.strip_prefixes

    def rank(name: str) -> int:
        return next((i for i, prefix in enumerate(prefixes) if name.startswith(prefix)), -1)

    def stripped(entries: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        if not prefixes:
            return entries
        ranked = sorted(((rank(name), name, value) for name, value in entries), key=lambda entry: entry[0])
        return [(name[len(prefixes[i]) :] if i >= 0 else name, value) for i, name, value in ranked]

    def set_attributes(row: Mapping[str, Any], product: catalogue_pb2.Product) -> None:
        found: dict[str, str] = {}
        if column is not None:
            for name, value in stripped(_attribute_entries(row.get(column), source, column)):
                found.setdefault(name, value)
        for name, from_column in single.items():
            value = _text(row.get(from_column), from_column)
            if value:
                found[name] = value
        found.update(source.constants)
        if len(found) > limits.ATTRIBUTES_MAX and not source.cut:
            raise RowValueError(
                column,
                f"{len(found)} attributes, at most {limits.ATTRIBUTES_MAX} are allowed",
                "Drop some, or set cut = true for the attributes in the column map",
            )
        for name, value in list(found.items())[: limits.ATTRIBUTES_MAX]:
            if not name:
                continue
            if source.cut and len(name) > limits.ATTRIBUTE_NAME_CHARACTERS_MAX:
                continue  # half a name is a wrong name
            _limited(name, limits.ATTRIBUTE_NAME_CHARACTERS_MAX, False, column, "an attribute name")
            product.attributes[name] = _limited(
                value,
                limits.ATTRIBUTE_VALUE_CHARACTERS_MAX,
                source.cut,
                column,
                f"the attribute {name[:40]!r}",
            )

    return set_attributes


def _attribute_entries(value: object, source: AttributeSource, column: str) -> list[tuple[str, str]]:
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return []
        if source.between and source.within:
            joined: dict[str, str] = {}
            for part in text.split(source.between):
                name, mark, rest = part.partition(source.within)
                name, rest = name.strip(), rest.strip()
                if mark and name and rest:
                    known = joined.get(name, rest)
                    joined[name] = known if known == rest else f"{known}, {rest}"
            return [(_text(name, column), _text(entry, column)) for name, entry in joined.items()]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RowValueError(
                column,
                f"the attributes are not valid JSON ({error})",
                "Write a JSON object of names and values",
            ) from error
    if value is None:
        return []
    if isinstance(value, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)  # a Parquet map arrives as a list of pairs
    if not isinstance(value, dict):
        raise RowValueError(
            column, "the attributes are not an object", "Write a JSON object of names and values"
        )
    entries = []
    for name, entry in value.items():
        if isinstance(entry, list | tuple):
            entry = ", ".join(text for item in entry if (text := _text(item, column)))
        text = _text(entry, column)
        if text:
            entries.append((_text(name, column), text))
    return entries
