"""Data sets in the layouts that people publish them in, read into one set of tables.

tables: products.*, queries.* (query_id, query, split) and labels.* (query_id, product_id, and a gain, rating
or label), where a star stands for parquet, csv, tsv, jsonl or json lines. WANDS's own names (product.csv,
query.csv, label.csv) do as well, and so does a rating file that holds the text of its queries (query, docid,
rating) without a list of queries. ESCI, Chorus and WANDS products are told by their columns
(`muster.products`).
beir: corpus.jsonl, queries.jsonl and qrels/<split>.tsv; qrels.tsv for a set that is not split.
esci: the two files as published, shopping_queries_dataset_products.parquet and ..._examples.parquet.
pairs: sentence1, sentence2 and label (1 the same, 0 not); the first asks, the second is a product's title.
classes: sentence or text, and label, category, topic or sentiment.
sequences: user_id and items.

For the role "queries" any of them gives only its texts (both sentences of a pair).

pairs and classes are one file with a column `split`, or a folder with one file a split (train.*, dev.*,
test.*, unlabeled.*, or as FewCLUE names them); sequences are one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.products import ProductFileError, gain_of, product_file, read_products, read_rows
from muster.v1 import catalogue_pb2
from training.data.splits import split_named
from training.data.tables import TRAIN, UNLABELLED, ClassText, DataTables, JudgedQuery, UserSequence
from training.recipe import DataSet, RecipeError

_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
_GRADES = ("gain", "rating", "label")
_ESCI_PRODUCTS = "shopping_queries_dataset_products.parquet"
_ESCI_EXAMPLES = "shopping_queries_dataset_examples.parquet"
_SPLIT_FILES = (
    ("train_few_all", "train"),
    ("train", "train"),
    ("dev_few_all", "dev"),
    ("dev", "dev"),
    ("test_public", "test"),
    ("test", "test"),
    ("unlabeled", "unlabelled"),
    ("unlabelled", "unlabelled"),
)
_SAME = {"1": 1.0, "1.0": 1.0, "same": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "not": 0.0, "false": 0.0}


def read_set(one: DataSet, data: Path) -> DataTables:
    """Read one data set of a recipe. data: the folder that its `folder` lies in.

    Raises: ProductFileError naming file, row and column; RecipeError where the recipe names no readable set.
    """
    path = data / one.folder
    if not path.exists():
        raise RecipeError(
            f"data.{one.name}.folder: {path} does not exist. Check the folder passed as --data, or take the "
            "set out of the recipe"
        )
    found = _READERS[one.format or _recognised(one, path)](one, path)
    return _texts_alone(one, found) if one.role == "queries" else found


def _texts_alone(one: DataSet, found: DataTables) -> DataTables:
    """What the role "queries" leaves of a set: its texts, whatever they were published for."""
    if not found.products and not found.classes:
        return found
    texts = [(query.split, query.text) for query in found.queries]
    texts += [(TRAIN if text.split == UNLABELLED else text.split, text.text) for text in found.classes]
    # The second sentence of a pair is of the split of its first; held out wins.
    splits = dict.fromkeys(found.products, TRAIN)
    splits |= {key: query.split for query in found.queries for key in query.gains if query.split != TRAIN}
    texts += [(splits[key], product.title) for key, product in found.products.items()]
    known = {f"{split or 'all'}-{_digest(text)}": (split, text) for split, text in texts}
    queries = [JudgedQuery(one.name, key, split, text, {}) for key, (split, text) in known.items()]
    return DataTables(queries=queries, files=found.files)


def _recognised(one: DataSet, path: Path) -> str:
    if one.role == "classes":
        return "classes"
    if one.role == "behaviour":
        return "sequences"
    if path.is_file():
        return "pairs"
    if (path / _ESCI_EXAMPLES).is_file():
        return "esci"
    if (path / "queries.jsonl").is_file() and (path / "corpus.jsonl").is_file():
        return "beir"
    return "tables"


# -- products, queries, labels ----------------------------------------------------------


class _Labels:
    """Labels as they are gathered: refuses what contradicts an earlier row or leaves the declared scale."""

    def __init__(self, one: DataSet, found: DataTables) -> None:
        self._one = one
        self._found = found
        self._rows: dict[tuple[str, str], tuple[Path, int]] = {}
        self.gains: dict[str, dict[str, float]] = {}

    def add(self, path: Path, row: int, query: str, product: str, gain: float, column: str) -> None:
        """One label. Raises: ProductFileError."""
        if self._one.targets and str(gain) not in self._one.targets:
            raise ProductFileError(
                path,
                f"the gain {gain:g} is outside the scale of data.{self._one.name}.targets "
                f"({', '.join(self._one.targets)})",
                "Correct the label, or say in the recipe what it is worth",
                row=row,
                column=column,
            )
        earlier = self._rows.setdefault((query, product), (path, row))
        known = self.gains.setdefault(query, {})
        if earlier == (path, row):
            known[product] = gain
        elif known[product] == gain:
            self._found.repeated_labels += 1
        else:
            raise ProductFileError(
                path,
                f"the label {gain:g} of query {query!r} and product {product!r} contradicts the label "
                f"{known[product]:g} in row {earlier[1]}"
                + (f" of {earlier[0].name}" if earlier[0] != path else ""),
                "Keep one row for each query and product",
                row=row,
                column=column,
            )


class _Queries:
    """Queries as they are gathered: one text and one split for each id."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.splits: dict[str, str] = {}

    def add(self, path: Path, row: int, key: object, text: object, split: str, column: str) -> str:
        """One row that names a query. Returns its id. Raises: ProductFileError."""
        if key is None or key == "":
            raise ProductFileError(path, "the query has no id", "Complete the row", row=row)
        if not isinstance(text, str) or not text.strip():
            raise ProductFileError(path, "the query has no text", "Complete the row", row=row, column=column)
        known = str(key)
        if self.texts.setdefault(known, text) != text:
            raise ProductFileError(
                path,
                f"the query id {known} has two texts",
                "Keep one row for each query",
                row=row,
                column=column,
            )
        if self.splits.setdefault(known, split) != split:
            raise ProductFileError(
                path,
                f"the query id {known} is in the splits {self.splits[known]} and {split}",
                "Leave it in one of them",
                row=row,
            )
        return known


def _tables(one: DataSet, path: Path) -> DataTables:
    found = DataTables()
    queries = _Queries()
    labels = _Labels(one, found)
    query_file = _file(path, ("queries", "query"))
    if query_file is not None:
        found.files.append(query_file)
        for row, values in read_rows(query_file, ("query_id", "query"), ("split",), where=one.where):
            split = split_named(query_file, row, values.get("split"))
            queries.add(query_file, row, values["query_id"], values["query"], split, "query")
    elif one.role == "queries":
        raise _absent(path, "queries.parquet, queries.csv, queries.tsv, queries.jsonl or query.csv")
    if one.role != "queries":
        label_file = _file(path, ("labels", "label", "ratings"))
        if label_file is None:
            raise _absent(
                path, "labels.parquet, labels.csv, labels.tsv, labels.jsonl, label.csv, ratings.csv"
            )
        _read_products(one, product_file(path), found)
        found.files.append(label_file)
        optional = ("query_id", "query", "product_id", "docid", *_GRADES, "split")
        for row, values in read_rows(label_file, (), optional, where=one.where):
            product = _cell(label_file, row, values, ("product_id", "docid"))
            split = split_named(label_file, row, values.get("split"))
            if query_file is None:
                text = _cell(label_file, row, values, ("query",))
                key = str(values.get("query_id") or _digest(text))
                queries.add(label_file, row, key, text, split, "query")
            else:
                key = _cell(label_file, row, values, ("query_id",))
                if key not in queries.texts:
                    found.unknown_queries += 1
                    continue
                if split and queries.splits[key] and split != queries.splits[key]:
                    raise ProductFileError(
                        label_file,
                        f"the label is in the split {split}, its query {key} in {queries.splits[key]}",
                        f"Correct one of {label_file.name} and {query_file.name}: queries are split whole",
                        row=row,
                        column="split",
                    )
            _add_label(labels, label_file, row, key, product, values)
        _check_products(label_file, labels, found)
    _finish(one, found, queries, labels)
    return found


def _beir(one: DataSet, path: Path) -> DataTables:
    found = DataTables()
    texts: dict[str, tuple[int, str]] = {}
    query_file = path / "queries.jsonl"
    found.files.append(query_file)
    for row, values in read_rows(query_file, ("_id", "text"), where=one.where):
        texts[_cell(query_file, row, values, ("_id",))] = (row, values["text"])
    queries, labels = _Queries(), _Labels(one, found)
    if one.role == "queries":
        for key, (row, text) in texts.items():
            queries.add(query_file, row, key, text, "", "text")
        _finish(one, found, queries, labels)
        return found
    _read_products(one, product_file(path), found)
    whole = path / "qrels.tsv"
    files = [whole] if whole.is_file() else sorted((path / "qrels").glob("*.tsv"))
    if not files:
        raise _absent(path, "qrels/train.tsv, qrels/dev.tsv, qrels/test.tsv, or qrels.tsv to have it split")
    for file in files:
        found.files.append(file)
        split = "" if file == whole else split_named(file, 0, file.stem)
        for row, values in read_rows(file, ("query-id", "corpus-id", "score")):
            key = _cell(file, row, values, ("query-id",))
            if key not in texts:
                found.unknown_queries += 1
                continue
            queries.add(file, row, key, texts[key][1], split, "query-id")
            product = _cell(file, row, values, ("corpus-id",))
            labels.add(file, row, key, product, gain_of(file, row, {"gain": values["score"]}), "score")
        _check_products(file, labels, found)
    _finish(one, found, queries, labels)
    return found


def _esci(one: DataSet, path: Path) -> DataTables:
    found = DataTables()
    queries, labels = _Queries(), _Labels(one, found)
    examples = path / _ESCI_EXAMPLES
    if one.role != "queries":
        # The two files share few columns: a condition on the examples alone leaves the products whole.
        _read_products(one, path / _ESCI_PRODUCTS, found, ("product_locale",))
    found.files.append(examples)
    needed = ("query_id", "query", "product_id", "esci_label")
    for row, values in read_rows(examples, needed, ("split",), where=one.where):
        split = split_named(examples, row, values.get("split"))
        key = queries.add(examples, row, values["query_id"], values["query"], split, "query")
        if one.role != "queries":
            product = _cell(examples, row, values, ("product_id",))
            _add_label(labels, examples, row, key, product, {"label": values["esci_label"]})
    if one.role != "queries":
        _check_products(examples, labels, found)
    _finish(one, found, queries, labels)
    return found


def _read_products(one: DataSet, file: Path, found: DataTables, columns: Sequence[str] = ()) -> None:
    found.files.append(file)
    where = {name: value for name, value in one.where.items() if not columns or name in columns}
    for product in read_products(file, one.map or None, where=where):
        found.products[product.product_id] = product


def _add_label(
    labels: _Labels, path: Path, row: int, query: str, product: str, values: Mapping[str, Any]
) -> None:
    column = next((name for name in _GRADES if values.get(name) not in (None, "")), "label")
    labels.add(path, row, query, product, gain_of(path, row, values), column)


def _check_products(path: Path, labels: _Labels, found: DataTables) -> None:
    named = [key for gains in labels.gains.values() for key in gains]
    found.unknown_products = sum(key not in found.products for key in named)
    if not named:
        raise ProductFileError(path, "no label belongs to a query of the set", "Check the ids of the queries")
    if found.unknown_products == len(named):
        raise ProductFileError(
            path,
            f"no label names a product of the set (such as {named[0]!r}, where the products are called "
            f"{next(iter(found.products))!r})",
            "Write the same identifiers in both files",
            column="product_id",
        )


def _finish(one: DataSet, found: DataTables, queries: _Queries, labels: _Labels) -> None:
    if not queries.texts:
        raise ProductFileError(found.files[0], "no query is left", f"Check data.{one.name}.where")
    for key, text in queries.texts.items():
        split = queries.splits[key]
        unlabelled = split == UNLABELLED
        gains = {} if unlabelled else labels.gains.get(key, {})
        found.queries.append(JudgedQuery(one.name, key, TRAIN if unlabelled else split, text, gains))


# -- single files ----------------------------------------------------------


def _pairs(one: DataSet, path: Path) -> DataTables:
    found = DataTables()
    queries, labels = _Queries(), _Labels(one, found)
    for file, named in _split_files(path):
        found.files.append(file)
        needed, optional = ("sentence1", "sentence2"), ("label", "split")
        for row, values in read_rows(file, needed, optional, where=one.where):
            first = _cell(file, row, values, ("sentence1",))
            second = _cell(file, row, values, ("sentence2",))
            split = split_named(file, row, values.get("split") or named)
            label = values.get("label")
            unlabelled = split == UNLABELLED or (label in (None, "") and split in ("", TRAIN))
            # A label-less pair is a question and a product that somebody may score.
            split = TRAIN if unlabelled else split
            key = queries.add(file, row, f"{split or 'all'}-{_digest(first)}", first, split, "sentence1")
            product = _digest(second)
            made = catalogue_pb2.Product(product_id=product, title=second.strip())
            found.products.setdefault(product, made)
            if not unlabelled:
                gain = _SAME.get(str(label).strip().lower())
                if gain is None:
                    raise ProductFileError(
                        file,
                        f"{label!r} does not say whether the two sentences mean the same",
                        "Write 1 for the same and 0 for not",
                        row=row,
                        column="label",
                    )
                labels.add(file, row, key, product, gain, "label")
    _finish(one, found, queries, labels)
    return found


def _classes(one: DataSet, path: Path) -> DataTables:
    found = DataTables()
    known: dict[tuple[str, str], tuple[Path, int, str | None]] = {}
    names = ("label", "category", "topic", "sentiment")
    for file, named in _split_files(path):
        found.files.append(file)
        for row, values in read_rows(file, (), ("sentence", "text", *names, "split"), where=one.where):
            text = _cell(file, row, values, ("sentence", "text"))
            column = next((name for name in names if name in values), "label")
            given = values.get(column)
            label = None if given is None or given == "" else str(given)
            split = split_named(file, row, values.get("split") or named)
            if split == UNLABELLED or (label is None and split in ("", TRAIN)):
                split, label = UNLABELLED, None
            elif label is None:
                raise ProductFileError(
                    file,
                    f"a text of the split {split} has no label",
                    "Complete the row",
                    row=row,
                    column=column,
                )
            elif one.classes and label not in one.classes:
                raise ProductFileError(
                    file,
                    f"the label {label!r} is not among data.{one.name}.classes ({', '.join(one.classes)})",
                    "Correct the label, or add it to the recipe",
                    row=row,
                    column=column,
                )
            earlier = known.setdefault((split, text), (file, row, label))
            if earlier[:2] == (file, row):
                key = f"{split or 'all'}-{_digest(text)}"
                found.classes.append(ClassText(one.name, key, split, text, label))
            elif earlier[2] == label:
                found.repeated_labels += 1
            else:
                raise ProductFileError(
                    file,
                    f"the label {label!r} contradicts the label {earlier[2]!r} of the same text in row "
                    f"{earlier[1]}",
                    "Keep one of the two rows",
                    row=row,
                    column=column,
                )
    return found


def _sequences(one: DataSet, path: Path) -> DataTables:
    found = DataTables(files=[path])
    rows: dict[str, int] = {}
    for row, values in read_rows(path, ("user_id", "items"), where=one.where):
        user = _cell(path, row, values, ("user_id",))
        items = values["items"].split() if isinstance(values["items"], str) else values["items"]
        if not isinstance(items, list) or not items or any(item is None or item == "" for item in items):
            raise ProductFileError(
                path,
                "the items are no list, or one of them is empty",
                "Write a list of identifiers in the order of time",
                row=row,
                column="items",
            )
        if rows.setdefault(user, row) != row:
            raise ProductFileError(
                path,
                f"the user {user} was already in row {rows[user]}",
                "Join the sequences of one user",
                row=row,
                column="user_id",
            )
        found.sequences.append(UserSequence(one.name, user, tuple(str(item) for item in items)))
    if not found.sequences:
        raise ProductFileError(path, "the file holds no sequence", "Check that it was written to its end")
    return found


# -- files and cells ----------------------------------------------------------


def _file(folder: Path, stems: Iterable[str]) -> Path | None:
    for stem in stems:
        for suffix in _SUFFIXES:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    return None


def _absent(folder: Path, names: str) -> ProductFileError:
    return ProductFileError(folder, f"the folder holds none of {names}", "Add one, or name another folder")


def _split_files(path: Path) -> list[tuple[Path, str]]:
    if path.is_file():
        return [(path, "")]
    files: dict[str, tuple[Path, str]] = {}
    for stem, split in _SPLIT_FILES:
        file = _file(path, (stem,))
        if file is not None and split not in files:
            files[split] = (file, split)
    if not files:
        raise _absent(path, "train.*, dev.*, test.* and unlabeled.* (parquet, csv, tsv, jsonl or json)")
    return list(files.values())


def _cell(path: Path, row: int, values: Mapping[str, Any], columns: Sequence[str]) -> str:
    for column in columns:
        value = values.get(column)
        if value is not None and str(value).strip():
            return str(value)
    present = next((column for column in columns if column in values), None)
    if present is None:
        # Of the kinds of files, only JSON lines leave columns out row by row.
        row_by_row = path.suffix.lower() not in (".parquet", ".csv", ".tsv")
        raise ProductFileError(
            path,
            f"there is no column {' or '.join(repr(column) for column in columns)}",
            "Add it, or rename the column that holds it",
            row=row if row_by_row else None,
            column=columns[0],
        )
    raise ProductFileError(path, "the value is empty", "Complete the row", row=row, column=present)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_READERS: Mapping[str, Callable[[DataSet, Path], DataTables]] = {
    "tables": _tables,
    "beir": _beir,
    "esci": _esci,
    "pairs": _pairs,
    "classes": _classes,
    "sequences": _sequences,
}
