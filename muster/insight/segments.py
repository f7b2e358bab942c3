"""Groups of shoppers by what they touched, named by the words of its products.

Each shopper is the TF-IDF of the words of the products that were clicked, put in the cart, bought, shared or
commented on; k-means over its leading directions, with the number of groups that has the best silhouette
(Rousseeuw 1987). Clustering always finds groups: so the same is done with the products dealt out anew among
all touches, and groups are told only if theirs are clearly further apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.insight.events import ANSWER, VIEW, Events, Ints
from muster.insight.hiding import Table, shown
from muster.insight.intervals import Floats, wilson

TOUCHES_LEAST = 3
SHOPPERS_FITTED = 10_000
GROUPS_MAX = 8
_SHUFFLES = 3
_SILHOUETTE_SAMPLE = 2_000
_DIRECTIONS = 12
_CLEARLY = 0.05
_WORDS_SHOWN = 4
_ABOUT = "Share of shoppers with enough touches who belong to a group; its words are those that set it apart."


def segments(events: Events, texts: Mapping[str, str], least: int, seed: int) -> Table:
    """The groups. texts: words of products by identifier; without, products stand for themselves."""
    title = "Groups of shoppers"
    try:
        import sklearn  # noqa: F401
    except ImportError:
        return Table("segments", title, "", [], "Not computed: install scikit-learn (the extra `insight`).")
    touched = events.take(~events.has(ANSWER, VIEW) & (events.product >= 0))
    counts = np.bincount(touched.actor, minlength=1)
    touched = touched.take(counts[touched.actor] >= TOUCHES_LEAST)
    people = np.unique(touched.actor)
    needed = 10 * least
    if len(people) < needed:
        why = f"Only {len(people)} shoppers touched {TOUCHES_LEAST} products or more; it takes {needed}."
        return Table("segments", title, _ABOUT, [], why)
    names = events.names.products
    bags = [texts.get(name, "") for name in names]
    if not any(bags):
        bags = [f"product{at}" for at in range(len(names))]
    rng = np.random.default_rng(seed)
    row = np.searchsorted(people, touched.actor)
    found = _grouped(row, touched.product, len(people), bags, seed)
    chance = max(
        _grouped(row, rng.permutation(touched.product), len(people), bags, seed + 1 + one).silhouette
        for one in range(_SHUFFLES)
    )
    told = f"Silhouette {found.silhouette:.2f}; with the products dealt out by chance {chance:.2f}."
    if found.silhouette < chance + _CLEARLY:
        return Table("segments", title, _ABOUT, [], f"No groups can be told apart. {told}")
    rows = []
    named = any(texts.get(name) for name in names)
    for group in np.argsort(-np.bincount(found.labels)):
        count = int((found.labels == group).sum())
        low, high = wilson(count, len(people))
        words = found.words(int(group), least)
        if not named:
            words = [names[int(word.removeprefix("product"))] for word in words]
        rows.append(
            {"words": ", ".join(words) or "-", "value": count / len(people), "low": low, "high": high,
             "count": count, "of": len(people), "people": count}
        )  # fmt: skip
    rows = shown(rows, least)
    for one in rows:
        if one["hidden"]:
            one["words"] = "-"
    return Table("segments", title, _ABOUT, rows, told)


class _Grouping:
    """labels: the group of each shopper. bags: TF-IDF, sparse [shoppers, words]."""

    def __init__(self, labels: Ints, silhouette: float, bags: Any, words: NDArray[Any]) -> None:
        self.labels, self.silhouette, self._bags, self._words = labels, silhouette, bags, words

    def words(self, group: int, least: int) -> list[str]:
        """The words that set a group apart, of which at least `least` of its people touched a product."""
        mine, others = self._bags[self.labels == group], self._bags[self.labels != group]
        apart = np.asarray(mine.mean(axis=0) - others.mean(axis=0)).ravel()
        people = np.asarray((mine > 0).sum(axis=0)).ravel()
        best = [at for at in np.argsort(-apart)[:_WORDS_SHOWN] if people[at] >= least and apart[at] > 0]
        return [str(self._words[at]) for at in best]


def _grouped(row: Ints, product: Ints, people: int, bags: list[str], seed: int) -> _Grouping:
    from scipy.sparse import csr_matrix
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
    from sklearn.metrics import silhouette_score
    from sklearn.preprocessing import normalize

    counter = CountVectorizer(token_pattern=r"(?u)\b[^\W_]{2,}\b", max_features=20_000)
    of_product = counter.fit_transform(bags)
    touches = csr_matrix((np.ones(len(row)), (row, product)), shape=(people, len(bags)))
    tfidf = TfidfTransformer(sublinear_tf=True).fit_transform(touches @ of_product)
    directions = min(_DIRECTIONS, tfidf.shape[1] - 1, people - 1)
    # With a word or two there is nothing to reduce.
    reduced = directions >= 1
    points: Floats = (
        TruncatedSVD(directions, random_state=seed).fit_transform(tfidf) if reduced else tfidf.toarray()
    )
    points = normalize(points)
    rng = np.random.default_rng(seed)
    fitted = rng.permutation(people)[:SHOPPERS_FITTED]
    best: tuple[float, Any] = (-2.0, None)
    for groups in range(2, GROUPS_MAX + 1):
        model = KMeans(groups, n_init=4, random_state=seed).fit(points[fitted])
        if len(np.unique(model.labels_)) < 2:
            continue
        sample = min(_SILHOUETTE_SAMPLE, len(fitted))
        score = silhouette_score(points[fitted], model.labels_, sample_size=sample, random_state=seed)
        if score > best[0]:
            best = (float(score), model)
    if best[1] is None:
        return _Grouping(np.zeros(people, dtype=np.int64), -1.0, tfidf, counter.get_feature_names_out())
    labels = best[1].predict(points).astype(np.int64)
    return _Grouping(labels, best[0], tfidf, counter.get_feature_names_out())
