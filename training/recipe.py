"""The recipe: every choice of a training run, typed, with its unit, read from one TOML file."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

DEFAULT_RECIPE = Path(__file__).with_name("recipe.toml")


class RecipeError(Exception):
    """The recipe says something that cannot be done; the message names the key."""


@dataclass(frozen=True)
class DataSet:
    """One folder of products, queries and labels.

    name: as in metrics. folder: below the data folder. map: column map of its products, "" to recognise it.
    where: keep only rows of all three files in which this column has this value ("" for no condition).
    role: "judged" (many labels a query: ranking is measured on it), "pairs" (single labels: training only),
    "queries" (query texts only). targets: gain as in the file to what a cross-encoder should say, 0 to 1.
    """

    name: str
    folder: str
    role: str
    licence: str
    source: str
    map: str = ""
    where: dict[str, str] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """Product text and token limits; see the bundle's text.json."""

    dense_fields: list[str]
    cross_fields: list[str]
    dense_tokens_max: int
    late_tokens_max: int
    cross_tokens_max: int
    query_tokens_max: int


@dataclass(frozen=True)
class Vocabulary:
    """Which word pieces stay. tokens_max: size of the new vocabulary; count_min: in the product texts."""

    tokens_max: int
    count_min: int


@dataclass(frozen=True)
class EncoderRecipe:
    """The encoder and the projection of its token vectors.

    steps: of the projection's training, 0 for the principal components as they are. sample: product texts
    whose tokens the components come from.
    """

    token_dimension: int
    sample: int
    steps: int
    batch_products: int
    learning_rate: float


@dataclass(frozen=True)
class CrossRecipe:
    """One cross-encoder run.

    layers: of the pretrained stack, from 0. epochs over the labelled queries. group: judged products a step,
    random_products: others beside them. pairs: unlabelled (query, product) pairs a teacher scores (0 for a
    teacher itself). minutes_max: training stops there whatever is left.
    """

    layers: list[int]
    epochs: int
    group: int
    random_products: int
    learning_rate: float
    head_learning_rate: float
    warm_up: float
    bce_weight: float
    pairs: int
    minutes_max: float


@dataclass(frozen=True)
class RankRecipe:
    """The ranker of each tier.

    kind: "linear" (a weighted sum of `features`, with L2 `linear_l2`) or "lambdamart" (all signals; the rest
    of this table). rows: candidates of a retrieved list that are learnt from. seeds: ensembles averaged.
    splits: whose queries the gate and the expected nDCG of the plans are measured on, out of fold.
    monotone: signal to 1 (never counts against a product) or -1 (never for it).
    """

    trees: int
    leaves: int
    learning_rate: float
    l2: float
    feature_fraction: float
    rows_min: int
    seeds: int
    width: int
    monotone: dict[str, int]
    kind: str
    features: list[str]
    linear_l2: float
    rows: int
    splits: list[str] = field(default_factory=lambda: ["train"])


@dataclass(frozen=True)
class PlanRecipe:
    """Depths to calibrate, and the gate.

    interval: share of two-sided bootstrap intervals. tier_confidence: share of resamples, above 0.5, in which
    a tier must beat the next cheaper one. gate_note: a sentence for the card, on how the two were chosen.
    """

    late_depths: list[int]
    cross_depths: list[int]
    width: int
    bootstrap: int
    interval: float
    tier_confidence: float
    gate_note: str = ""


@dataclass(frozen=True)
class Lexical:
    """BM25F field boosts, and fusion; see the bundle's lexical.json."""

    boosts: dict[str, float]
    rrf_k: int
    weights: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. folds: over the training queries, for every out-of-fold figure."""

    name: str
    seed: int
    folds: int
    pretrained: str
    licences: list[str]
    data: list[DataSet]
    text: Text
    vocabulary: Vocabulary
    encoder: EncoderRecipe
    teacher: CrossRecipe
    cross_small: CrossRecipe
    rank: RankRecipe
    plans: PlanRecipe
    lexical: Lexical

    def judged(self) -> list[DataSet]:
        """The sets on which ranking is measured."""
        return [one for one in self.data if one.role == "judged"]


def load_recipe(path: str | Path = DEFAULT_RECIPE) -> Recipe:
    """Read and check a recipe. Raises: RecipeError naming the key."""
    try:
        value = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    recipe: Recipe = _build(Recipe, value, "")
    if recipe.folds < 2:
        raise RecipeError("folds must be at least 2")
    if not recipe.judged():
        raise RecipeError("data: at least one set must have the role 'judged'")
    for one in recipe.data:
        if one.role not in ("judged", "pairs", "queries"):
            raise RecipeError(f"data.{one.name}: role must be judged, pairs or queries")
    return recipe


def _build(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} must be a table")
        hints = get_type_hints(kind)
        made = {}
        for one in dataclasses.fields(kind):
            at = f"{where}.{one.name}" if where else one.name
            if one.name in value:
                made[one.name] = _build(hints[one.name], value[one.name], at)
            elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                raise RecipeError(f"{at} is missing")
        for key in value:
            if key not in made:
                raise RecipeError(f"{where + '.' if where else ''}{key} is not a setting")
        build: Any = kind
        return build(**made)
    origin = get_origin(kind)
    if origin is list:
        if not isinstance(value, list):
            raise RecipeError(f"{where} must be a list")
        return [_build(get_args(kind)[0], item, f"{where}[{at}]") for at, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} must be a table")
        return {str(key): _build(get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RecipeError(f"{where} must be a {kind.__name__}, not {value!r}")
    return value


@dataclass(frozen=True)
class Arguments:
    """What every stage is called with."""

    recipe: Recipe
    data: Path
    run: Path


def stage_arguments(description: str, argv: Sequence[str] | None) -> Arguments:
    """Parse the command line that all stages share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file (default: the shipped one)"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--run", type=Path, required=True, help="folder for everything this run writes")
    parsed = parser.parse_args(argv)
    return Arguments(load_recipe(parsed.recipe), parsed.data, parsed.run)
