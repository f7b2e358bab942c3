"""The recipe: every choice of a training run, typed, with its unit, read from one TOML file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from muster.durations import parse_duration_ms

ROLES = ("judged", "pairs", "queries", "classes", "behaviour")
FORMATS = ("", "tables", "beir", "esci", "pairs", "classes", "sequences")
DEFAULT_RECIPE = Path(__file__).parent / "configs" / "muster_base.toml"

Tables = TypeVar("Tables")


class RecipeError(Exception):
    """The recipe says something that cannot be done; the message names the key."""


@dataclass(frozen=True)
class DataSet:
    """One folder (or file) of products, queries and labels, of classed texts, or of behaviour.

    name: as in metrics. folder: below the data folder. map: column map of its products, "" to recognise it.
    where: keep only rows of all its files in which this column has this value ("" for no condition).
    role: "judged" (many labels a query: ranking is measured on it), "pairs" (single labels: training only),
    "queries" (query texts only), "classes" (texts with a class each), "behaviour" (what each user chose).
    targets: gain as in the file to what a cross-encoder should say, 0 to 1; a gain that is not among them is
    refused (none: any gain may occur, but no cross-encoder can learn from it).
    format: one of "tables", "beir", "esci", "pairs", "classes", "sequences" (`training/data/adapters.py`);
    "" to recognise it. classes: the classes that must occur, none to take those found in training.
    grades: gain as in the file to its name, where judgements are classes: the teacher's report by class.
    """

    name: str
    folder: str
    role: str
    licence: str
    source: str
    map: str = ""
    where: dict[str, str] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    format: str = ""
    classes: list[str] = field(default_factory=list)
    grades: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitRecipe:
    """How queries without a split get one, and what counts as a leak between splits.

    train, dev, test: shares, together 1; used only for sets whose files name no split. near_duplicate:
    Jaccard similarity of two texts' words, above 0 and at most 1 (the same words), from which on a training
    text is dropped because of one outside training.
    """

    train: float = 0.8
    dev: float = 0.1
    test: float = 0.1
    near_duplicate: float = 0.8


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
    """Which word pieces stay. tokens_max: size of the new vocabulary; count_min: in the product texts.

    added_max: at most so many single characters that the pretrained vocabulary lacks are added to it (part of
    tokens_max), the commonest first; 0: none. added_count_min: how often such a character must occur.
    """

    tokens_max: int
    count_min: int
    added_max: int = 0
    added_count_min: int = 2


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
class PartRecipe:
    """One part of `unlabelled`. steps: optimiser steps it gets, 0 switches it off. weight: of its loss."""

    steps: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class UnlabelledRecipe:
    """How the pretrained encoder is adapted to the catalogues before its projection is fitted.

    structure: a title against the rest of its product. synthetic: queries made from attributes. pseudo: the
    ensemble's grades for unlabelled queries. masked: guessing hidden words. dropout: a text against itself.
    labels: the labelled training pairs (with fold-wise encoders beside the one that ships).
    layers: how many layers, from the top, are trained. batch: queries a step. hard_negatives: mined a query.
    candidates: products a query in `pseudo` and `labels`. temperature: of cosines. dense_weight, late_weight:
    of the losses of the dense and of the late-interaction score. stay_weight: of 1 - cosine between a dense
    vector and the pretrained encoder's, so that late interaction can learn what would hurt retrieval (0: off;
    else a step takes half as long again). masked_share: of the words that are hidden. drop: dropout rate in
    the part `dropout`. learning_rate, head_learning_rate: at their height. warm_up: share of the steps.
    train_words: whether the word table learns too (for vocabularies with added characters). keep_share: of
    the pretrained weights in the average that is written, 0 to below 1. held_out: share of the products and
    texts that only the dev curve sees. precision, device, checkpoint_steps, minutes_max (of each encoder): of
    the training loop, see `training/loop.py`.
    """

    structure: PartRecipe = field(default_factory=PartRecipe)
    synthetic: PartRecipe = field(default_factory=PartRecipe)
    pseudo: PartRecipe = field(default_factory=PartRecipe)
    masked: PartRecipe = field(default_factory=PartRecipe)
    dropout: PartRecipe = field(default_factory=PartRecipe)
    labels: PartRecipe = field(default_factory=PartRecipe)
    layers: int = 6
    batch: int = 16
    hard_negatives: int = 1
    candidates: int = 8
    temperature: float = 0.05
    dense_weight: float = 1.0
    late_weight: float = 0.5
    stay_weight: float = 0.0
    masked_share: float = 0.15
    drop: float = 0.1
    learning_rate: float = 2e-5
    head_learning_rate: float = 1e-3
    warm_up: float = 0.1
    keep_share: float = 0.3
    held_out: float = 0.05
    train_words: bool = False
    precision: str = "auto"
    device: str = "auto"
    checkpoint_steps: int = 100
    minutes_max: float = 10.0

    def parts(self) -> dict[str, PartRecipe]:
        """Name to part, of those that are switched on."""
        named = {name: getattr(self, name) for name in UNLABELLED_PARTS}
        return {name: part for name, part in named.items() if part.steps > 0}


UNLABELLED_PARTS = ("structure", "synthetic", "pseudo", "masked", "dropout", "labels")


@dataclass(frozen=True)
class CrossRecipe:
    """One cross-encoder run.

    layers: of the pretrained stack, from 0. epochs over the labelled queries. group: judged products a step,
    random_products: others beside them. pairs: unlabelled (query, product) pairs a teacher scores (0 for a
    teacher itself). minutes_max: training stops there whatever is left.
    dropout: rate of every dropout layer, 0 to below 1. weight_decay: L2, decoupled (AdamW). clip_norm: the
    largest norm of the gradient, 0 for no limit. accumulate: steps whose gradients make one update.
    precision: "off" (float32), "bf16", "fp16" (CUDA alone) or "auto" (bf16 where the processor computes in
    it). checkpointing: layers are computed again in the backward pass, which saves memory for a third more
    time. device: "auto" (a CUDA GPU where there is one), "cpu" or "cuda". checkpoint_steps: updates between
    two checkpoints, 0 for none; a run that was killed goes on from the last one.
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
    dropout: float = 0.0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    accumulate: int = 1
    precision: str = "off"
    checkpointing: bool = False
    device: str = "auto"
    checkpoint_steps: int = 200


STARTS = ("pretrained", "teacher")
SCORES = ("meeting", "head")
CROSS_TIERS = ("cross_small", "cross_large")


@dataclass(frozen=True)
class StudentRecipe(CrossRecipe):
    """A cross-encoder that may ship, one for each fold and one of all labels. What CrossRecipe says, and:

    start: "pretrained" (the layers named, of the pretrained stack), or "teacher" (those of the teacher that
    saw the same labels, so that 0 epochs and 0 pairs ship the teacher itself with the bundle's words).
    keep_share: of the pretrained weights in the average that is written, 0 to below 1: what few labels moved
    too far is drawn back (Wortsman et al. 2021, arXiv:2109.01903). augmented: learn from the edited pairs of
    `training.augment` as well. inner: share of the feed-forward neurons of the start that stay, above 0 and
    at most 1, before anything is learnt. steps: updates, in as many epochs as they take; 0: `epochs` says.
    apart: in so many of its layers, from below, query and product are read apart (a half-joint model, whose
    product states could be kept). synthetic: share of the teacher-scored queries that are made from products,
    0 to 1; the others are training queries, labelled or not. teacher_losses: "margin" (margin-MSE) and
    "listwise" (KL at `temperature`) to weight. score: "meeting" (late interaction of the jointly read tokens,
    and a head over [CLS]), or "head" (the head alone: a plain BERT classifier, which any other server can
    load, and which ranks nothing before it is trained).
    """

    start: str = "pretrained"
    keep_share: float = 0.0
    augmented: bool = False
    inner: float = 1.0
    steps: int = 0
    apart: int = 0
    synthetic: float = 0.0
    teacher_losses: dict[str, float] = field(default_factory=lambda: {"margin": 1.0})
    temperature: float = 2.0
    score: str = "meeting"

    def trains(self) -> bool:
        """Whether anything is learnt beyond the start."""
        return self.epochs > 0 or self.pairs > 0


DISTIL_LOSSES = ("margin", "listwise")
TEACHER_KINDS = ("cross", "bi")
# Names in `training.losses.ranking`, which needs torch and so is not asked here.
RANKING_LOSSES = ("pairwise", "listwise", "graded")
TUNINGS = ("full", "lora", "adalora", "adapter")


@dataclass(frozen=True)
class TeacherRecipe(CrossRecipe):
    """The teachers: one for each fold and seed, on any Hugging Face encoder. What CrossRecipe says, and:

    pretrained: folder, installed package or hub name of the encoder, "" for the recipe's own. layers: [] for
    all of them. kind: "cross" (query and product read together) or "bi" (each alone, then compared).
    losses: "pairwise", "listwise", "graded" to weight; none: pairwise 1 and graded `bce_weight`.
    tuning: "full"; "lora"; "adalora" (ranks moved to where they matter); "adapter" (IA3: learned rescaling
    vectors). rank, alpha: of lora and adalora; alpha / rank scales what they add. target_modules: names of
    the layers they change, none for all linear layers (adapter: peft's choice for the model). freeze_words:
    the word table stays as pretrained. seeds: teachers a fold, averaged. product_tokens_max: of a product's
    text, 0 for `text.cross_tokens_max`.
    dev_share: share of a fold's training queries set aside for early stopping, 0 to below 1; the weights that
    did best on them are kept. patience: evaluations without a better nDCG@10 on them before training stops, 0
    for never. evaluate_steps: updates between two evaluations, 0 for only before and after. evaluate_queries,
    evaluate_products: at most so many queries a split, and judged products a query, in an evaluation.
    augmented: learn from the edited pairs of `training.augment` as well.
    """

    precision: str = "auto"
    pretrained: str = ""
    kind: str = "cross"
    losses: dict[str, float] = field(default_factory=dict)
    tuning: str = "full"
    rank: int = 8
    alpha: float = 16.0
    target_modules: list[str] = field(default_factory=list)
    freeze_words: bool = True
    seeds: int = 1
    product_tokens_max: int = 0
    dev_share: float = 0.0
    patience: int = 0
    evaluate_steps: int = 0
    evaluate_queries: int = 20
    evaluate_products: int = 16
    augmented: bool = False

    def weights(self) -> dict[str, float]:
        """Loss to its weight."""
        return self.losses or {"pairwise": 1.0, "graded": self.bce_weight}


@dataclass(frozen=True)
class TrackingRecipe:
    """Where the curves of training go beside `curves.jsonl`.

    to: any of "tensorboard" (left out where it is not installed), "wandb", "mlflow". project: their name for
    the collection of runs.
    """

    to: list[str] = field(default_factory=lambda: ["tensorboard"])
    project: str = "muster"


@dataclass(frozen=True)
class AugmentRecipe:
    """How many edited pairs to add, kind by kind; `training/data/edits.py` says what each does to the label.

    word, typo, case: the query with a synonym, a slip of the keyboard, other capitals. product: another one
    of the shelf. colour, size, quantity, brand, price: the product with another one. back_off: queries made
    from a product's type, brand and colour. Each is a share of the labelled training pairs of a set, 0 or
    above; 0 switches the kind off, and changes nothing that the others make.
    fallen, related: targets, 0 to 1: of the right type but not as asked, and of the same shelf only.
    neighbours: other products that a back-off query is judged with. group: products that an edited query is
    judged with, at most. share_max: edited pairs at most, of all kinds, as a share of the labelled pairs that
    a model is trained on.
    """

    word: float = 0.0
    typo: float = 0.0
    case: float = 0.0
    product: float = 0.0
    colour: float = 0.0
    size: float = 0.0
    quantity: float = 0.0
    brand: float = 0.0
    price: float = 0.0
    back_off: float = 0.0
    fallen: float = 0.25
    related: float = 0.1
    neighbours: int = 3
    group: int = 8
    share_max: float = 0.5

    def shares(self) -> dict[str, float]:
        """Kind to share, of all kinds."""
        return {kind: float(getattr(self, kind)) for kind in AUGMENT_KINDS}


AUGMENT_KINDS = (
    "word",
    "typo",
    "case",
    "product",
    "colour",
    "size",
    "quantity",
    "brand",
    "price",
    "back_off",
)


@dataclass(frozen=True)
class RecoveryRecipe:
    """Distillation of a changed model towards the whole one.

    steps: optimiser steps at most. batch: texts a step, or products of a cross-encoder's query. short_share:
    of the steps that see short texts alone, 0 to 1 (they cost a fifth). minutes_max: training stops there,
    with the learning rate brought down. learning_rate: at its height. precision: "float32", or "bfloat16" for
    products of matrices (half the time where the processor has it; the vectors move by less than 1e-4).
    """

    steps: int = 600
    batch: int = 32
    short_share: float = 0.5
    learning_rate: float = 3e-4
    minutes_max: float = 4.0
    precision: str = "float32"


@dataclass(frozen=True)
class PruneVariant:
    """A smaller form of one model. model: "encoder", "cross_small" or "cross_large".

    layers, heads, inner: shares that stay, above 0 and at most 1: of the layers, then of the attention heads
    and of the feed-forward neurons of those.
    """

    name: str
    model: str = "encoder"
    layers: float = 1.0
    heads: float = 1.0
    inner: float = 1.0


@dataclass(frozen=True)
class PruneRecipe:
    """Which smaller models to make, and which of them to use.

    variants: none: the stage does nothing. ship: model to the variant that takes its place from `quantise`
    on. choose_layers: "measured" (drop what changes the outputs least) or "spread" (even distances). sample:
    texts by which importance is measured and the rest is refitted. inner_multiple: neurons stay in blocks of
    this many. recovery: afterwards; 0 steps for none.
    """

    variants: list[PruneVariant] = field(default_factory=list)
    ship: dict[str, str] = field(default_factory=dict)
    choose_layers: str = "measured"
    sample: int = 256
    inner_multiple: int = 32
    recovery: RecoveryRecipe = field(default_factory=RecoveryRecipe)


@dataclass(frozen=True)
class QuantiseRecipe:
    """int8: which range of the weights it covers, and when a model is trained to bear it.

    ranges: tried in order, the one with the least change of the outputs on the calibration texts is kept:
    "max" (nothing is cut off), "percentile" (of the weights' sizes, a row at a time), "mse" (least squared
    error of each row, weighted by how large its inputs are). percentile: 0 to 100. calibration_texts: how
    many. weight_bits: 7, or 8 where every processor that serves has VNNI. loss_max: share of the nDCG@10 that
    may be lost before `recovery` runs with rounding in the forward pass. activations: how that rounding
    treats a layer's inputs: "tensor" (one scale, as ONNX Runtime), "token" (one a token) or "none".
    """

    ranges: list[str] = field(default_factory=lambda: ["max", "percentile", "mse"])
    percentile: float = 99.9
    calibration_texts: int = 256
    weight_bits: int = 7
    loss_max: float = 0.005
    activations: str = "tensor"
    recovery: RecoveryRecipe = field(
        default_factory=lambda: RecoveryRecipe(steps=300, learning_rate=3e-5, minutes_max=4.0)
    )


@dataclass(frozen=True)
class SearchRecipe:
    """How the cross-encoder for a deadline is looked for (`training.search`); 0 trials: it is not.

    trials: students measured, or ended early, in all. folds: so many of the recipe's folds, from the first
    on, are measured; a trial trains one student for each. deadline_ms: of a request, where none is given on
    the command line; 0: one must be given. usable_share: of the deadline that may be planned with, above 0
    and at most 1: what is left over is for the slowest requests.
    layers: how many of the teacher's layers a student may have, beside all of them: the first ones, or spread
    evenly. inner: shares of their feed-forward neurons, beside all of them. steps: updates of each student
    that is trained. pairs: that a teacher scores for each. minutes_max: of training, a trial, all folds
    together. learning_rates: the lowest and the highest. dropout_max, weight_decay_max, keep_share_max: the
    highest; the lowest of each is 0.
    """

    trials: int = 0
    folds: int = 2
    deadline_ms: float = 0.0
    usable_share: float = 0.7
    layers: list[int] = field(default_factory=lambda: [4, 3, 2])
    inner: list[float] = field(default_factory=lambda: [0.75, 0.5])
    steps: int = 200
    pairs: int = 2000
    minutes_max: float = 4.0
    learning_rates: list[float] = field(default_factory=lambda: [1e-5, 2e-4])
    dropout_max: float = 0.2
    weight_decay_max: float = 0.1
    keep_share_max: float = 0.5


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
    partitions: ways to fold the queries for the rankers, over which figures are averaged. settled_pairs: a
    cross-encoder stops once so many candidates in a row have not reached the first page; 0: never. admit:
    cross-encoder tiers that enter the plans whether or not they earned it, to compare servers with one and
    the same model; the card marks them, and says of what they are worth only what was measured. baselines:
    whether to measure what well-known libraries reach on the same queries, which takes minutes.
    """

    late_depths: list[int]
    cross_depths: list[int]
    width: int
    bootstrap: int
    interval: float
    tier_confidence: float
    gate_note: str = ""
    partitions: int = 3
    settled_pairs: int = 0
    baselines: bool = True
    admit: list[str] = field(default_factory=list)


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
    teacher: TeacherRecipe
    rank: RankRecipe
    plans: PlanRecipe
    lexical: Lexical
    cross_small: StudentRecipe | None = None
    cross_large: StudentRecipe | None = None
    splits: SplitRecipe = field(default_factory=SplitRecipe)
    unlabelled: UnlabelledRecipe = field(default_factory=UnlabelledRecipe)
    prune: PruneRecipe = field(default_factory=PruneRecipe)
    quantise: QuantiseRecipe = field(default_factory=QuantiseRecipe)
    tracking: TrackingRecipe = field(default_factory=TrackingRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    search: SearchRecipe = field(default_factory=SearchRecipe)

    def judged(self) -> list[DataSet]:
        """The sets on which ranking is measured."""
        return [one for one in self.data if one.role == "judged"]

    def students(self) -> dict[str, StudentRecipe]:
        """Tier to settings of each cross-encoder that is wanted, the smaller first."""
        named = {"cross_small": self.cross_small, "cross_large": self.cross_large}
        return {tier: student for tier, student in named.items() if student is not None}

    def asks_teachers(self) -> bool:
        """Whether any later stage starts from teachers, or learns what they say."""
        students = self.students().values()
        taught = any(student.start == "teacher" or student.pairs > 0 for student in students)
        return taught or self.search.trials > 0 or "pseudo" in self.unlabelled.parts()


def load_recipe(path: str | Path = DEFAULT_RECIPE) -> Recipe:
    """Read and check a recipe: TOML, or the same tables in a file that ends in .json.

    Raises: RecipeError naming the key.
    """
    parse = json.loads if Path(path).suffix == ".json" else tomllib.loads
    try:
        value = parse(Path(path).read_text())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: a recipe is an object of tables, not a {type(value).__name__}")
    return checked_recipe(value)


def searched_recipe(run: Path) -> Path:
    """Where `training.search` writes the recipe for the stages after it."""
    return run / "search" / "recipe.json"


def recipe_tables(recipe: Recipe) -> dict[str, Any]:
    """The tables of a recipe, as a JSON file holds them; `checked_recipe` makes the recipe of them again."""
    return {key: value for key, value in dataclasses.asdict(recipe).items() if value is not None}


def checked_recipe(value: Mapping[str, Any]) -> Recipe:
    """A recipe from tables as TOML gives them. Raises: RecipeError naming the key."""
    recipe = build_tables(Recipe, value)
    if recipe.folds < 2:
        raise RecipeError("folds must be at least 2")
    if not recipe.judged():
        raise RecipeError("data: at least one set must have the role 'judged'")
    for one in recipe.data:
        if one.role not in ROLES:
            raise RecipeError(f"data.{one.name}: role must be one of {', '.join(ROLES)}")
        if one.format not in FORMATS:
            raise RecipeError(f"data.{one.name}: format must be one of {', '.join(FORMATS[1:])}, or left out")
    if recipe.plans.partitions < 1:
        raise RecipeError("plans.partitions must be at least 1")
    if recipe.plans.settled_pairs < 0:
        raise RecipeError("plans.settled_pairs must be at least 0 (never)")
    students = recipe.students()
    for tier in recipe.plans.admit:
        if tier not in students and not (recipe.search.trials and tier in CROSS_TIERS):
            trained = ", ".join(students) or "none"
            raise RecipeError(
                f"plans.admit: no cross-encoder {tier!r} is trained here; those that are: {trained}"
            )
    names = [one.name for one in recipe.data]
    if len(set(names)) < len(names):
        raise RecipeError(f"data: two sets are called {next(n for n in names if names.count(n) > 1)!r}")
    _check_teacher(recipe)
    for tier, student in recipe.students().items():
        _check_student(recipe, tier, student)
    _check_augment(recipe.augment)
    _check_search(recipe)
    shares = (recipe.splits.train, recipe.splits.dev, recipe.splits.test)
    if min(shares) < 0 or abs(sum(shares) - 1.0) > 1e-6:
        raise RecipeError(f"splits: train, dev and test are shares that sum to 1, not {shares}")
    if not 0.0 < recipe.splits.near_duplicate <= 1.0:
        raise RecipeError("splits.near_duplicate must be above 0 and at most 1")
    return recipe


def _check_teacher(recipe: Recipe) -> None:
    teacher = recipe.teacher
    for name, value, known in (("kind", teacher.kind, TEACHER_KINDS), ("tuning", teacher.tuning, TUNINGS)):
        if value not in known:
            raise RecipeError(f"teacher.{name} must be one of {', '.join(known)}, not {value!r}")
    for name, least in (("seeds", 1), ("rank", 1), ("evaluate_queries", 1), ("evaluate_products", 2)):
        if getattr(teacher, name) < least:
            raise RecipeError(f"teacher.{name} must be at least {least}")
    for name in teacher.losses:
        if name not in RANKING_LOSSES:
            names = ", ".join(RANKING_LOSSES)
            raise RecipeError(f"teacher.losses: no loss is called {name!r}; known: {names}")
    if max(teacher.weights().values()) <= 0.0 or min(teacher.weights().values()) < 0.0:
        raise RecipeError("teacher.losses: weights must be at least 0, and one above it")
    if not 0.0 <= teacher.dev_share < 1.0:
        raise RecipeError("teacher.dev_share must be at least 0 and below 1")
    if teacher.patience and not (teacher.dev_share and teacher.evaluate_steps):
        raise RecipeError("teacher.patience needs dev_share and evaluate_steps above 0")
    for one in recipe.data:
        if one.grades and set(one.grades) != set(one.targets):
            raise RecipeError(f"data.{one.name}.grades must name the same gains as targets")


def _check_search(recipe: Recipe) -> None:
    search = recipe.search
    if search.trials < 0:
        raise RecipeError("search.trials must be at least 0")
    if search.trials == 0:
        return
    teacher = recipe.teacher
    if teacher.kind != "cross" or teacher.pretrained not in ("", recipe.pretrained):
        raise RecipeError(
            "search.trials: students start from a teacher of the kind 'cross' and of the recipe's own "
            "pretrained encoder, or there is nothing to search among"
        )
    if not 1 <= search.folds <= recipe.folds:
        raise RecipeError(f"search.folds must be between 1 and folds, which is {recipe.folds}")
    for name in ("deadline_ms", "pairs", "weight_decay_max"):
        if getattr(search, name) < 0:
            raise RecipeError(f"search.{name} must be at least 0")
    if search.steps < 1:
        raise RecipeError("search.steps must be at least 1")
    if not search.minutes_max > 0.0:
        raise RecipeError("search.minutes_max must be above 0")
    if not 0.0 < search.usable_share <= 1.0:
        raise RecipeError("search.usable_share must be above 0 and at most 1")
    if any(count < 1 for count in search.layers):
        raise RecipeError("search.layers must be counts of at least 1")
    if any(not 0.0 < share <= 1.0 for share in search.inner):
        raise RecipeError("search.inner must be shares above 0 and at most 1")
    if len(search.learning_rates) != 2 or not 0.0 < search.learning_rates[0] <= search.learning_rates[1]:
        raise RecipeError("search.learning_rates must be two rates above 0, the lower first")
    for name in ("dropout_max", "keep_share_max"):
        if not 0.0 <= getattr(search, name) < 1.0:
            raise RecipeError(f"search.{name} must be at least 0 and below 1")


def _check_student(recipe: Recipe, tier: str, student: StudentRecipe) -> None:
    if student.start not in STARTS:
        raise RecipeError(f"{tier}.start must be one of {', '.join(STARTS)}, not {student.start!r}")
    if student.score not in SCORES:
        raise RecipeError(f"{tier}.score must be one of {', '.join(SCORES)}, not {student.score!r}")
    if not 0.0 <= student.keep_share < 1.0:
        raise RecipeError(f"{tier}.keep_share must be at least 0 and below 1")
    if not 0.0 < student.inner <= 1.0:
        raise RecipeError(f"{tier}.inner must be a share above 0 and at most 1")
    if student.steps < 0:
        raise RecipeError(f"{tier}.steps must be at least 0")
    if not 0 <= student.apart < max(1, len(student.layers)):
        raise RecipeError(f"{tier}.apart must be at least 0 and below its {len(student.layers)} layers")
    if not 0.0 <= student.synthetic <= 1.0:
        raise RecipeError(f"{tier}.synthetic must be a share between 0 and 1")
    unknown = [one for one in student.teacher_losses if one not in DISTIL_LOSSES]
    if unknown or max(student.teacher_losses.values(), default=0.0) <= 0.0:
        names = " and ".join(DISTIL_LOSSES)
        raise RecipeError(f"{tier}.teacher_losses gives weights to {names}, one of them above 0")
    if student.start == "teacher" and recipe.teacher.pretrained not in ("", recipe.pretrained):
        raise RecipeError(f"{tier}.start: the teacher must be of the recipe's own pretrained encoder")
    if student.start == "teacher" and recipe.teacher.kind != "cross":
        raise RecipeError(f"{tier}.start: a teacher of the kind {recipe.teacher.kind!r} reads no pairs")


def _check_augment(augment: AugmentRecipe) -> None:
    for name, share in {**augment.shares(), "share_max": augment.share_max}.items():
        if share < 0.0:
            raise RecipeError(f"augment.{name} must be at least 0")
    for name in ("fallen", "related"):
        if not 0.0 <= getattr(augment, name) <= 1.0:
            raise RecipeError(f"augment.{name} must be between 0 and 1")
    for name in ("neighbours", "group"):
        if getattr(augment, name) < 1:
            raise RecipeError(f"augment.{name} must be at least 1")


def build_tables(kind: type[Tables], value: Mapping[str, Any]) -> Tables:
    """A dataclass of settings from tables as TOML gives them. Raises: RecipeError naming the key."""
    made: Tables = _build(kind, value, "")
    return made


def _build(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) is UnionType:
        # An optional table: `X | None`, and TOML has no None.
        kind = next(one for one in get_args(kind) if one is not NoneType)
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


def stage_parser(description: str) -> argparse.ArgumentParser:
    """What the command lines of all stages share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file (default: the shipped one)"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--run", type=Path, required=True, help="folder for everything this run writes")
    return parser


def stage_arguments(description: str, argv: Sequence[str] | None) -> Arguments:
    """Parse a command line that has only what all stages share."""
    parsed = stage_parser(description).parse_args(argv)
    return Arguments(load_recipe(parsed.recipe), parsed.data, parsed.run)


def deadline_ms(text: str) -> float:
    """Milliseconds of a --deadline such as 50ms, 0.2s or 50.

    Raises: argparse.ArgumentTypeError, which the parser shows as it stands.
    """
    try:
        return parse_duration_ms(text, bare_unit="ms")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
