"""Behaviour of made-up shoppers whose truth is known: position bias, segments, trend, returns, bots.

A shopper belongs to a segment, searches mostly in it, and comes back in later weeks with a known
probability. An answer shows the products of a query in an order that is the better the dearer its tier. A
product is clicked if it is examined, which depends on its position alone, and attracts, which depends on
query and product alone (the position-based model: Richardson et al. 2007, Craswell et al. 2008). A click
leads to a cart and a cart to a purchase with known probabilities.

The tier follows the hour, as load does in a real shop, and shoppers of the busy hours click more: so the
plain difference between tiers is not what a tier does. Some searches draw their tier instead; they carry an
experiment key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_US = 86_400 * 1_000_000
TIERS = ("lexical", "hybrid", "late")
EXPERIMENT = "tier-by-chance"

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("kind", pa.string()),
        ("product_id", pa.string()),
        ("receipt_id", pa.string()),
        ("receipt", pa.string()),
        ("position", pa.int32()),
        ("results", pa.int32()),
        ("shopper", pa.string()),
        ("session", pa.string()),
        ("at_unix_us", pa.int64()),
        ("committed_unix_us", pa.int64()),
        ("query", pa.string()),
        ("tier", pa.string()),
        ("priority", pa.string()),
        ("experiment", pa.string()),
    ]
)

_THEMES = {
    "garden": ("hose", "trowel", "planter", "seeds", "rake", "compost", "shears", "trellis"),
    "kitchen": ("kettle", "skillet", "whisk", "colander", "toaster", "grater", "ladle", "teapot"),
    "camping": ("tent", "lantern", "stove", "sleeping bag", "rucksack", "compass", "hammock", "canteen"),
    "office": ("stapler", "notebook", "printer", "desk lamp", "folder", "whiteboard", "pen", "keyboard"),
    "nursery": ("cot", "pram", "rattle", "bib", "playmat", "bottle", "nightlight", "mobile"),
    "cycling": ("helmet", "saddle", "pump", "bell", "mudguard", "panniers", "inner tube", "chain"),
}
_WORDS = ("small", "large", "blue", "green", "steel", "wooden", "folding", "light", "classic", "compact")


@dataclass(frozen=True)
class Shop:
    """What is true in the simulated shop.

    active_first_week: shoppers of the first week, expected. weekly_growth: by which factor a week's shoppers
    grow. returning: probability that a shopper is back one week after the first, two weeks after, and so on;
    0 beyond. examination_power: position p is examined with probability p ** -power. attraction: of a
    matching product and of one that does not match. noise: of each tier's order, as the standard deviation
    added to a product's worth. busy_factor: by which attraction grows in the busy hours. experiment_share: of
    searches whose tier is drawn. own_theme_share: of searches within the shopper's segment.
    nothing_found_share: of searches without results. bots, unknown_receipts, duplicates, wrong_clocks: how
    many of each are planted.
    """

    days: int = 56
    start_unix_us: int = 1_790_553_600_000_000  # a Monday, 00:00 UTC
    active_first_week: float = 250.0
    weekly_growth: float = 1.03
    returning: tuple[float, ...] = (0.30, 0.22, 0.16, 0.12, 0.08, 0.05)
    more_sessions_mean: float = 0.6
    more_searches_mean: float = 0.8
    weekday_weights: tuple[float, ...] = (1.0, 0.95, 0.95, 1.0, 1.1, 1.4, 1.3)
    themes: int = 4
    products_of_theme: int = 40
    queries_of_theme: int = 12
    candidates: int = 20
    places: int = 10
    examination_power: float = 0.8
    attraction: tuple[float, float] = (0.3, 0.04)
    matching_share: float = 0.3
    noise: tuple[float, ...] = (0.9, 0.4, 0.15)
    busy_hours: tuple[int, ...] = (18, 19, 20, 21)
    busy_factor: float = 1.4
    experiment_share: float = 0.3
    own_theme_share: float = 0.9
    nothing_found_share: float = 0.05
    cart_given_click: float = 0.35
    buy_given_cart: float = 0.45
    bots: int = 4
    bot_events: int = 900
    unknown_receipts: int = 60
    duplicates: int = 90
    wrong_clocks: int = 40

    def __post_init__(self) -> None:
        if not 1 <= self.themes <= len(_THEMES):
            raise ValueError(f"themes must be from 1 to {len(_THEMES)}, not {self.themes}")
        if self.days < 7 or self.candidates < self.places or self.products_of_theme < self.candidates:
            raise ValueError(
                "a shop needs seven days, and candidates from its places up to a theme's products"
            )
        if len(self.noise) != len(TIERS) or len(self.weekday_weights) != 7:
            raise ValueError(f"a noise for each of {len(TIERS)} tiers, and a weight for each of seven days")

    @property
    def examined(self) -> Floats:
        """Probability that each position is looked at, from the first on; float64 [places]."""
        return np.asarray(np.arange(1, self.places + 1, dtype=np.float64) ** -self.examination_power)


@dataclass(frozen=True)
class Impressions:
    """Every product that was shown, one entry each: indices of its search, query and product, its position
    from 1, its tier (index into TIERS), whether the tier was drawn, and whether it was clicked.
    """

    search: Ints
    query: Ints
    product: Ints
    position: Ints
    tier: Ints
    drawn: NDArray[np.bool_]
    clicked: NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """What an analysis should find.

    examined: float64 [places]. attraction: float64 [queries, products], outside the busy hours.
    click_share: by tier, the share of answers with results that would have a click were all given by that
    tier. answers_by_day: expected, float64 [days], searches. segments: each shopper's, by identifier.
    themes: their names. left_out: planted events, by reason.
    """

    examined: Floats
    attraction: Floats
    click_share: dict[str, float]
    cart_given_click: float
    buy_given_cart: float
    weekly_growth: float
    returning: tuple[float, ...]
    answers_by_day: Floats
    segments: dict[str, str]
    themes: tuple[str, ...]
    nothing_found_share: float
    left_out: dict[str, int]


@dataclass(frozen=True)
class Simulated:
    """events: as an event file holds them, by rising time. products: product_id, title, category."""

    events: pa.Table
    products: pa.Table
    impressions: Impressions
    truth: Truth
    query_texts: list[str] = field(default_factory=list)
    product_ids: list[str] = field(default_factory=list)


@dataclass
class _Searches:
    """One entry for each search; what was examined and liked follows from it."""

    shopper: Ints
    session: Ints
    at_us: Ints
    query: Ints
    tier: Ints
    drawn: NDArray[np.bool_]
    busy: NDArray[np.bool_]
    found: NDArray[np.bool_]


def simulate(shop: Shop | None = None, seed: int = 0) -> Simulated:
    """Draws the behaviour of a shop; the same for the same seed."""
    shop = shop or Shop()
    rng = np.random.default_rng(seed)
    titles, query_texts, attraction = _assortment(shop, rng)
    visits, segments = _visits(shop, rng)
    searches = _searches(shop, visits, segments, rng)
    shown, clicked, click_share = _answers(shop, searches, attraction, rng)
    product_ids = [f"p{number:04d}" for number in range(len(titles))]
    names = tuple(list(_THEMES)[: shop.themes])
    rows, left_out = _Rows(shop, searches, shown, clicked, product_ids, query_texts, rng).table()
    searching = np.flatnonzero(searches.found)
    grid = np.broadcast_to(np.arange(shop.places), shown.shape)
    impressions = Impressions(
        np.repeat(searching, shop.places),
        np.repeat(searches.query[searching], shop.places),
        shown.reshape(-1),
        grid.reshape(-1) + 1,
        np.repeat(searches.tier[searching], shop.places),
        np.repeat(searches.drawn[searching], shop.places),
        clicked.reshape(-1),
    )
    truth = Truth(
        shop.examined,
        attraction,
        click_share,
        shop.cart_given_click,
        shop.buy_given_cart,
        shop.weekly_growth,
        shop.returning,
        _expected_by_day(shop),
        {f"s{number:05d}": names[segment] for number, segment in enumerate(segments)},
        names,
        shop.nothing_found_share,
        left_out,
    )
    products = pa.table(
        {
            "product_id": product_ids,
            "title": titles,
            "category": [names[number // shop.products_of_theme] for number in range(len(titles))],
        }
    )
    return Simulated(rows, products, impressions, truth, query_texts, product_ids)


def _assortment(shop: Shop, rng: np.random.Generator) -> tuple[list[str], list[str], Floats]:
    """Titles of products, texts of queries, and what attracts: float64 [queries, products]."""
    titles, queries = [], []
    for nouns in list(_THEMES.values())[: shop.themes]:
        titles += [
            f"{_WORDS[int(rng.integers(len(_WORDS)))]} {nouns[number % len(nouns)]}"
            for number in range(shop.products_of_theme)
        ]
        queries += [
            nouns[number % len(nouns)]
            if number < len(nouns)
            else f"{_WORDS[number % len(_WORDS)]} {nouns[number % len(nouns)]}"
            for number in range(shop.queries_of_theme)
        ]
    attraction = np.zeros((len(queries), len(titles)))
    high, low = shop.attraction
    for query in range(len(queries)):
        first = query // shop.queries_of_theme * shop.products_of_theme
        chosen = rng.permutation(shop.products_of_theme)[: shop.candidates] + first
        matches = rng.random(shop.candidates) < shop.matching_share
        worth = np.where(matches, high, low) * rng.uniform(0.7, 1.3, shop.candidates)
        attraction[query, chosen] = np.minimum(worth, 1.0 / max(shop.busy_factor, 1.0))
    return titles, queries, attraction


def _new_by_week(shop: Shop) -> Floats:
    """Expected new shoppers of each week, so that the active ones grow as they should."""
    weeks = -(-shop.days // 7)
    back = np.array([1.0, *shop.returning])
    new = np.zeros(weeks)
    for week in range(weeks):
        active = shop.active_first_week * shop.weekly_growth**week
        returned = sum(new[week - age] * back[age] for age in range(1, min(week, len(back) - 1) + 1))
        new[week] = max(active - returned, 0.0)
    return new


def _expected_by_day(shop: Shop) -> Floats:
    day = np.arange(shop.days)
    weights = np.array(shop.weekday_weights) / sum(shop.weekday_weights)
    active = shop.active_first_week * shop.weekly_growth ** (day // 7)
    each = (1 + shop.more_sessions_mean) * (1 + shop.more_searches_mean)
    return np.asarray(active * each * weights[day % 7], dtype=np.float64)


def _visits(shop: Shop, rng: np.random.Generator) -> tuple[tuple[Ints, Ints], Ints]:
    """Each session's shopper and day; each shopper's segment."""
    new = rng.poisson(_new_by_week(shop))
    weeks = len(new)
    first_week = np.repeat(np.arange(weeks), new)
    shoppers, days = [], []
    weights = np.array(shop.weekday_weights) / sum(shop.weekday_weights)
    for age, probability in enumerate((1.0, *shop.returning)):
        there = np.flatnonzero((first_week + age < weeks) & (rng.random(len(first_week)) < probability))
        sessions = 1 + rng.poisson(shop.more_sessions_mean, len(there))
        shoppers.append(np.repeat(there, sessions))
        day_of_week = rng.choice(7, int(sessions.sum()), p=weights)
        days.append(np.repeat(first_week[there] + age, sessions) * 7 + day_of_week)
    shopper, day = np.concatenate(shoppers), np.concatenate(days)
    inside = day < shop.days
    return (shopper[inside], day[inside]), rng.integers(0, shop.themes, len(first_week))


def _searches(shop: Shop, visits: tuple[Ints, Ints], segments: Ints, rng: np.random.Generator) -> _Searches:
    shopper, day = visits
    hours = np.array([1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 5, 5, 5, 6, 7, 9, 10, 9, 8, 5, 2], dtype=float)
    hour = rng.choice(24, len(shopper), p=hours / hours.sum())
    start_us = (
        shop.start_unix_us + day * DAY_US + hour * 3_600_000_000 + rng.integers(0, 2_400_000_000, len(day))
    )
    count = 1 + rng.poisson(shop.more_searches_mean, len(shopper))
    session = np.repeat(np.arange(len(shopper)), count)
    nth = np.arange(len(session)) - np.repeat(np.cumsum(count) - count, count)
    at_us = start_us[session] + nth * 90_000_000 + rng.integers(0, 20_000_000, len(session))
    theme = segments[shopper[session]]
    elsewhere = rng.random(len(session)) >= shop.own_theme_share
    theme = np.where(elsewhere, rng.integers(0, shop.themes, len(session)), theme)
    # Some queries are asked far more often than others.
    popular = 1.0 / np.arange(1, shop.queries_of_theme + 1)
    nth_query = rng.choice(shop.queries_of_theme, len(session), p=popular / popular.sum())
    busy = np.isin(hour, shop.busy_hours)[session]
    by_load = np.where(
        busy,
        rng.choice(len(TIERS), len(session), p=[0.6, 0.25, 0.15]),
        rng.choice(len(TIERS), len(session), p=[0.15, 0.25, 0.6]),
    )
    drawn = rng.random(len(session)) < shop.experiment_share
    tier = np.where(drawn, rng.integers(0, len(TIERS), len(session)), by_load)
    return _Searches(
        shopper[session],
        session,
        at_us,
        theme * shop.queries_of_theme + nth_query,
        tier,
        drawn,
        busy,
        rng.random(len(session)) >= shop.nothing_found_share,
    )


def _answers(
    shop: Shop, searches: _Searches, attraction: Floats, rng: np.random.Generator
) -> tuple[Ints, NDArray[np.bool_], dict[str, float]]:
    """Products shown [answers, places], whether each was clicked, and each tier's true share of answers with
    a click. answers: the searches that found something.
    """
    found = np.flatnonzero(searches.found)
    query = searches.query[found]
    members = np.argsort(attraction <= 0, axis=1, kind="stable")[:, : shop.candidates]
    candidates = members[query]
    worth = attraction[query[:, None], candidates]
    spread = float(np.std(attraction[attraction > 0])) or 1.0
    factor = np.where(searches.busy[found], shop.busy_factor, 1.0)[:, None]
    noise = rng.standard_normal(worth.shape)
    shown = np.empty((len(found), shop.places), dtype=np.int64)
    wanted = np.empty((len(found), shop.places))
    click_share = {}
    for number, name in enumerate(TIERS):
        order = np.argsort(-(worth + shop.noise[number] * spread * 2 * noise), axis=1)[:, : shop.places]
        likely = shop.examined * np.minimum(np.take_along_axis(worth, order, axis=1) * factor, 1.0)
        click_share[name] = float(np.mean(1 - np.prod(1 - likely, axis=1)))
        mine = searches.tier[found] == number
        shown[mine] = np.take_along_axis(candidates, order, axis=1)[mine]
        wanted[mine] = likely[mine]
    return shown, rng.random(wanted.shape) < wanted, click_share


class _Rows:
    """Makes the events of the answers, and plants what an analysis must leave out."""

    def __init__(
        self,
        shop: Shop,
        searches: _Searches,
        shown: Ints,
        clicked: NDArray[np.bool_],
        product_ids: list[str],
        query_texts: list[str],
        rng: np.random.Generator,
    ) -> None:
        self._shop, self._searches, self._rng = shop, searches, rng
        self._shown, self._clicked = shown, clicked
        self._products = np.array(product_ids, dtype=object)
        self._texts = np.array([*query_texts, "no such thing"], dtype=object)

    def table(self) -> tuple[pa.Table, dict[str, int]]:
        rng, shop, searches = self._rng, self._shop, self._searches
        found = np.flatnonzero(searches.found)
        every = np.arange(len(searches.shopper))
        results = np.where(searches.found, shop.places, 0)
        parts = [self._part("answer", every, None, None, 0, results)]
        row, place = np.divmod(np.arange(self._shown.size), shop.places)
        parts.append(self._part("view", found[row], self._shown.reshape(-1), place + 1, 200_000))
        row, place = np.nonzero(self._clicked)
        for kind, share, later_us in (
            ("click", 1.0, 5_000_000),
            ("cart", shop.cart_given_click, 25_000_000),
            ("buy", shop.buy_given_cart, 60_000_000),
        ):
            kept = rng.random(len(row)) < share
            row, place = row[kept], place[kept]
            parts.append(self._part(kind, found[row], self._shown[row, place], place + 1, later_us))
        clean = pa.concat_tables(parts)
        clean = clean.set_column(0, "event_id", pa.array([f"e{at:08d}" for at in range(len(clean))]))
        planted, left_out = self._planted(clean)
        return pa.concat_tables([clean, *planted]).sort_by("committed_unix_us"), left_out

    def _part(
        self,
        kind: str,
        search: Ints,
        product: Ints | None,
        position: Ints | None,
        later_us: int,
        results: Ints | None = None,
    ) -> pa.Table:
        searches, size = self._searches, len(search)
        at_us = searches.at_us[search] + later_us + self._rng.integers(0, 1_000_000, size)
        answered = searches.at_us[search] // 1_000_000
        query = np.where(searches.found[search], searches.query[search], len(self._texts) - 1)
        nothing = pa.nulls(size, pa.string())
        return pa.table(
            {
                "event_id": nothing,
                "kind": [kind] * size,
                "product_id": nothing if product is None else pa.array(self._products[product], pa.string()),
                # As the service makes them: the time comes first.
                "receipt_id": [f"{at:08x}{one:032x}" for at, one in zip(answered, search, strict=True)],
                "receipt": ["known"] * size,
                "position": pa.nulls(size, pa.int32())
                if position is None
                else pa.array(position, pa.int32()),
                "results": pa.nulls(size, pa.int32()) if results is None else pa.array(results, pa.int32()),
                "shopper": [f"s{one:05d}" for one in searches.shopper[search]],
                "session": [f"v{one:06d}" for one in searches.session[search]],
                "at_unix_us": at_us,
                "committed_unix_us": at_us + 300_000,
                "query": pa.array(self._texts[query], pa.string()),
                "tier": pa.array(np.array(TIERS, dtype=object)[searches.tier[search]], pa.string()),
                "priority": ["default"] * size,
                "experiment": pa.array(
                    np.array([None, EXPERIMENT], dtype=object)[searches.drawn[search].astype(int)],
                    pa.string(),
                ),
            },
            schema=SCHEMA,
        )

    def _planted(self, clean: pa.Table) -> tuple[list[pa.Table], dict[str, int]]:
        rng, shop = self._rng, self._shop
        acts = np.flatnonzero(np.asarray(clean["kind"].to_numpy(zero_copy_only=False)) == "click")

        def some(count: int) -> pa.Table:
            return clean.take(rng.choice(acts, min(count, len(acts)), replace=False))

        def named(table: pa.Table, column: str, values: pa.Array | list[str]) -> pa.Table:
            at = table.schema.get_field_index(column)
            return table.set_column(at, SCHEMA.field(at), pa.array(values, SCHEMA.field(at).type))

        again = some(shop.duplicates)
        unknown = some(shop.unknown_receipts)
        unknown = named(unknown, "receipt", ["unknown"] * len(unknown))
        unknown = named(unknown, "receipt_id", [None] * len(unknown))
        unknown = named(unknown, "event_id", [f"u{at:06d}" for at in range(len(unknown))])
        clocks = some(shop.wrong_clocks)
        clocks = named(clocks, "event_id", [f"c{at:06d}" for at in range(len(clocks))])
        clocks = named(clocks, "at_unix_us", clocks["at_unix_us"].to_numpy() - 400 * DAY_US)
        left_out = {"duplicate": len(again), "unknown_receipt": len(unknown), "wrong_clock": len(clocks)}
        planted = [again, unknown, clocks]
        for bot in range(shop.bots):
            pressed = clean.take(rng.choice(acts, shop.bot_events))
            size = len(pressed)
            begin_us = shop.start_unix_us + int(rng.integers(1, shop.days - 1)) * DAY_US
            at_us = begin_us + np.sort(rng.integers(0, 300_000_000, size))
            for column, values in (
                ("event_id", [f"b{bot}-{at:06d}" for at in range(size)]),
                ("receipt_id", [f"{one // 1_000_000:08x}{bot:032x}" for one in at_us]),
                ("shopper", [f"bot{bot}"] * size),
                ("session", [f"bot{bot}"] * size),
                ("at_unix_us", at_us),
                ("committed_unix_us", at_us + 300_000),
            ):
                pressed = named(pressed, column, values)
            planted.append(pressed)
        left_out["flood"] = shop.bots * shop.bot_events
        return planted, left_out
