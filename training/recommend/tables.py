"""Tables from item to item: for each item, the items that a shopper may take next and how much speaks for
each.

Whatever relates two items becomes one kind of table, so that one rule scores them all and a server holds
nothing else: steps of shoppers in either direction, items of one shopper (co-occurrence), a linear model in
closed form, attributes, texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from training.recommend.behaviour import Items

_ROWS = 512


@dataclass(frozen=True)
class Table:
    """One relation.

    weights: float32 [items, items], at least 0, 0 on the diagonal. recency: see `history_weights`. doubt:
    observations that speak for nothing known, beside which a history's weights are seen; in the unit of the
    weights.
    """

    name: str
    weights: sparse.csr_matrix
    recency: float
    doubt: float


def steps(
    sequences: Sequence[Items], items: int, *, window: int, backward: bool = False
) -> sparse.csr_matrix:
    """How often an item was followed by another, at most `window` steps later, a step of d counting 1 / d.

    backward: by which it was preceded. Returns: float32 [items, items].
    """
    rows, columns, weights = [], [], []
    for one in sequences:
        for gap in range(1, min(window, len(one) - 1) + 1):
            rows.append(one[:-gap])
            columns.append(one[gap:])
            weights.append(np.full(len(one) - gap, 1.0 / gap, dtype=np.float32))
    if not rows:
        return sparse.csr_matrix((items, items), dtype=np.float32)
    row, column, weight = np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)
    if backward:
        row, column = column, row
    counted = sparse.csr_matrix((weight, (row, column)), shape=(items, items))
    counted.setdiag(0)
    counted.eliminate_zeros()
    return counted


def taken_by(sequences: Sequence[Items], items: int) -> sparse.csr_matrix:
    """Who took what: float32 [sequences, items], 1 or absent."""
    rows = np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])
    columns = np.concatenate(sequences) if len(sequences) else np.empty(0, dtype=np.int64)
    taken = sparse.csr_matrix(
        (np.ones(len(columns), dtype=np.float32), (rows, columns)), shape=(len(sequences), items)
    )
    taken.data[:] = 1.0
    return taken


def together(taken: sparse.csr_matrix) -> sparse.csr_matrix:
    """Cosine of two items' shoppers. taken: [shoppers, items]. Returns: float32 [items, items], 0 on the
    diagonal.
    """
    counts = np.asarray(taken.sum(axis=0)).ravel()
    scale = sparse.diags((1.0 / np.sqrt(np.maximum(counts, 1.0))).astype(np.float32))
    cosine = (scale @ (taken.T @ taken) @ scale).tocsr()
    cosine.setdiag(0)
    cosine.eliminate_zeros()
    return cosine


def closed_form(taken: sparse.csr_matrix, *, l2: float, neighbours: int) -> sparse.csr_matrix:
    """Weights of the linear model that best says what each shopper took from the rest of it.

    taken: [shoppers, items]. l2: above 0. neighbours: largest positive weights kept a row. Items that nobody
    took stay out of the inverse. Returns: float32 [items, items], 0 on the diagonal. Time grows with the cube
    of the items. Source: Steck 2019, arXiv:1905.03375 (EASE), equation 8.
    """
    items = taken.shape[1]
    seen = np.flatnonzero(np.asarray(taken.sum(axis=0)).ravel() > 0)
    part = taken[:, seen]
    gram = (part.T @ part).toarray(order="F").astype(np.float32)
    gram[np.diag_indices_from(gram)] += l2
    # Symmetric and positive: half the work of a general inverse. What l2 allows needs no double precision.
    factor, failed = linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, failed_too = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise ValueError(f"the closed form has no solution with l2 = {l2:g}: raise tables.l2")
    _mirror(inverse)
    diagonal = np.diag(inverse).copy()
    rows = (inverse[at : at + _ROWS] / -diagonal for at in range(0, len(seen), _ROWS))
    small = largest_of_rows(rows, len(seen), neighbours)
    place = sparse.csr_matrix(
        (np.ones(len(seen), dtype=np.float32), (np.arange(len(seen)), seen)), shape=(len(seen), items)
    )
    return (place.T @ small @ place).tocsr()


def _mirror(lower: NDArray[np.float32]) -> None:
    """Make a matrix of which only the lower triangle counts symmetric, in place and without another of its
    size.
    """
    for at in range(0, len(lower), _ROWS):
        until = min(at + _ROWS, len(lower))
        block = np.tril(lower[at:until, at:until])
        lower[at:until, at:until] = block + np.tril(block, -1).T
        lower[at:until, until:] = lower[until:, at:until].T


def similar_texts(
    vectors: NDArray[np.float32],
    *,
    neighbours: int,
    temperature: float,
    known: NDArray[np.bool_] | None = None,
) -> sparse.csr_matrix:
    """Softmax of the cosines of the nearest texts.

    vectors: float32 [items, H], rows of length 1 (0: no text, no row). temperature: of the cosines. known:
    bool [items], where given the columns that may be named. Returns: float32 [items, items], rows that sum to
    1 or are empty.
    """
    has_text = np.linalg.norm(vectors, axis=1) > 0.5
    columns = has_text if known is None else has_text & known

    def rows() -> Iterator[NDArray[np.float32]]:
        for at in range(0, len(vectors), _ROWS):
            cosine = vectors[at : at + _ROWS] @ vectors.T
            shifted = np.exp((cosine - 1.0) / temperature)
            shifted[:, ~columns] = 0.0
            shifted[~has_text[at : at + _ROWS]] = 0.0
            yield shifted

    return equal_rows(largest_of_rows(rows(), len(vectors), neighbours))


def similar_attributes(
    shares: sparse.csr_matrix,
    popularity: NDArray[np.float64],
    *,
    neighbours: int,
    known: NDArray[np.bool_] | None = None,
) -> sparse.csr_matrix:
    """Items that share rare attributes, the more popular first.

    shares: float32 [items, kinds] (`Behaviour.attribute_shares`). popularity: float64 [items], how often each
    was taken. The cosine of the attributes, weighted by how few items have each (idf), to the fourth power,
    times the popularity + 1: of two items as near, the one that more shoppers took. known, Returns: as for
    `similar_texts`.
    """
    has = shares.copy()
    has.data[:] = 1.0
    idf = np.log(shares.shape[0] / np.maximum(np.asarray(has.sum(axis=0)).ravel(), 1.0)).astype(np.float32)
    weighted = (has @ sparse.diags(idf)).tocsr()
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    unit = (sparse.diags((1.0 / np.maximum(lengths, 1e-9)).astype(np.float32)) @ weighted).tocsr()
    liked = (popularity + 1.0).astype(np.float32)
    if known is not None:
        liked[~known] = 0.0
    columns = unit.T.tocsr()

    def rows() -> Iterator[NDArray[np.float32]]:
        for at in range(0, unit.shape[0], _ROWS):
            cosine = (unit[at : at + _ROWS] @ columns).toarray()
            yield np.square(np.square(cosine)) * liked

    return equal_rows(largest_of_rows(rows(), unit.shape[0], neighbours))


def equal_rows(table: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide each row by its sum. Returns: float32, rows that sum to 1 or are empty."""
    sums = np.asarray(table.sum(axis=1)).ravel()
    scale = np.divide(1.0, sums, out=np.zeros_like(sums, dtype=np.float64), where=sums > 0)
    return (sparse.diags(scale.astype(np.float32)) @ table).tocsr()


def keep_largest(table: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """The largest weights of each row, ties by column, columns rising."""
    table = table.tocsr()
    counts = np.diff(table.indptr)
    if counts.max(initial=0) <= neighbours:
        table.sort_indices()
        return table
    row = np.repeat(np.arange(table.shape[0]), counts)
    order = np.lexsort((table.indices, -table.data, row))
    rank = np.arange(len(order)) - np.repeat(table.indptr[:-1], counts)
    kept = order[rank < neighbours]
    made = sparse.csr_matrix((table.data[kept], (row[kept], table.indices[kept])), shape=table.shape)
    made.sort_indices()
    return made


def _without_diagonal(parts: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    start = 0
    for part in parts:
        at = np.arange(len(part))
        part[at, start + at] = 0.0
        yield part
        start += len(part)


def largest_of_rows(parts: Iterator[NDArray[np.float32]], items: int, neighbours: int) -> sparse.csr_matrix:
    """Sparse rows of dense parts without the diagonal: the largest positive values of each.

    parts: float32 [some rows, items] each, all rows in their order. Returns: float32 [rows, items].
    """
    kept = min(neighbours, items)
    found = []
    for part in _without_diagonal(parts):
        columns = np.argpartition(-part, kept - 1, axis=1)[:, :kept]
        values = np.take_along_axis(part, columns, axis=1)
        rows = np.repeat(np.arange(len(part)), kept)
        positive = values.ravel() > 0
        found.append(
            sparse.csr_matrix(
                (values.ravel()[positive].astype(np.float32), (rows[positive], columns.ravel()[positive])),
                shape=(len(part), items),
            )
        )
    return sparse.vstack(found).tocsr()


# -- reading tables ----------------------------------------------------------


def history_weights(
    histories: Sequence[Items], items: int, recency: float, history_max: int
) -> sparse.csr_matrix:
    """What each item of a history counts: its place from the end, from 1, to the power of -recency.

    history_max: items read, the latest. An item that occurs more than once counts as often.
    Returns: float32 [histories, items].
    """
    cut = [one[-history_max:] for one in histories]
    rows = np.repeat(np.arange(len(cut)), [len(one) for one in cut])
    weights = [np.arange(len(one), 0, -1, dtype=np.float32) ** np.float32(-recency) for one in cut]
    columns = np.concatenate(cut) if cut else np.empty(0, dtype=np.int64)
    values = np.concatenate(weights) if cut else np.empty(0, dtype=np.float32)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(cut), items))


def table_evidence(table: Table, histories: Sequence[Items], history_max: int) -> NDArray[np.float32]:
    """How much speaks for each item after each history: float32 [histories, items], at least 0."""
    weights = history_weights(histories, table.weights.shape[0], table.recency, history_max)
    return np.asarray((weights @ table.weights).toarray(), dtype=np.float32)
