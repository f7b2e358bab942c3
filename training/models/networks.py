"""The Transformer behind every model tier, small enough to read.

One plain BERT stack (Devlin et al. 2019, arXiv:1810.04805, post-norm) with the weights of a pretrained
checkpoint, an encoder that yields one dense vector and one small vector a token, and a cross-encoder built
from a choice of the same layers. Written out rather than imported so that the exported graph holds only what
the service runs, and so that the embedding table can be stored in int8 with a scale a row.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# In a list of kept tokens: no row of the checkpoint, but one to be made.
NEW_ROW = -1
# Without noise new words look alike. Of Chinese question pairs told apart by an English model that lacked
# most of their characters, AUC on the training pairs: .680 at 0, .689 at .1, .743 at 1, .735 at 2.
NEW_ROW_SPREAD = 1.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a stack: layers, width, heads, inner width, vocabulary, positions.

    heads and inner are those of the whole layers; a pruned stack says what each of its layers has left in
    heads_by_layer and inner_by_layer (empty: the same everywhere). A head is width / heads wide, however many
    are left. apart: in so many layers, from below, query and product are read apart, so that a product's
    states could be kept. Raises: ValueError where the sizes contradict each other.
    """

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    epsilon: float = 1e-12
    heads_by_layer: tuple[int, ...] = ()
    inner_by_layer: tuple[int, ...] = ()
    apart: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.apart <= self.layers:
            raise ValueError(f"apart is {self.apart} of {self.layers} layers")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be shared by {self.heads} heads")
        for name, sizes, most in (
            ("heads_by_layer", self.heads_by_layer, self.heads),
            ("inner_by_layer", self.inner_by_layer, self.inner),
        ):
            if sizes and len(sizes) != self.layers:
                raise ValueError(f"{name} names {len(sizes)} layers, not {self.layers}")
            if any(not 1 <= size <= most for size in sizes):
                raise ValueError(f"{name} is {list(sizes)}: each must be between 1 and {most}")

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    def heads_at(self, layer: int) -> int:
        """Heads of one layer."""
        return self.heads_by_layer[layer] if self.heads_by_layer else self.heads

    def inner_at(self, layer: int) -> int:
        """Inner width of one layer."""
        return self.inner_by_layer[layer] if self.inner_by_layer else self.inner


class Layer(nn.Module):
    """One Transformer layer, post-norm. at: which layer of the shape."""

    def __init__(self, shape: Shape, at: int = 0) -> None:
        super().__init__()
        self.heads = shape.heads_at(at)
        self.head_width = shape.head_width
        attended = self.heads * self.head_width
        self.query = nn.Linear(shape.width, attended)
        self.key = nn.Linear(shape.width, attended)
        self.value = nn.Linear(shape.width, attended)
        self.mix = nn.Linear(attended, shape.width)
        self.mix_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.widen = nn.Linear(shape.width, shape.inner_at(at))
        self.narrow = nn.Linear(shape.inner_at(at), shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.dropout = nn.Dropout(0.0)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """states: [B, T, H]; bias: [B, 1, 1 or T, T], 0 where attended, very negative where not."""
        batch, length, _ = states.shape

        def split(projected: Tensor) -> Tensor:
            return projected.view(batch, length, self.heads, self.head_width).transpose(1, 2)

        query, key, value = split(self.query(states)), split(self.key(states)), split(self.value(states))
        weights = torch.softmax(
            query @ key.transpose(2, 3) * (1.0 / math.sqrt(self.head_width)) + bias, dim=-1
        )
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, self.heads * self.head_width)
        states = self.mix_norm(states + self.dropout(self.mix(mixed)))
        out: Tensor = self.norm(states + self.dropout(self.narrow(F.gelu(self.widen(states)))))
        return out


class Stack(nn.Module):
    """Embeddings and layers. The word table can be frozen into int8 rows (`freeze_words`)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.kinds = nn.Embedding(2, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.layers = nn.ModuleList(Layer(shape, at) for at in range(shape.layers))
        # Gradient checkpointing: layers are computed again in the backward pass instead of kept.
        self.checkpointing = False
        self.words_int8: Tensor | None = None
        self.words_scale: Tensor | None = None

    def freeze_words(self) -> None:
        """Replace the word table by int8 rows, each with its own scale, as it will be stored."""
        table = self.words.weight.data
        scale = table.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127.0
        self.words_int8 = torch.round(table / scale).to(torch.int8)
        self.words_scale = scale

    def embed(self, input_ids: Tensor, kinds: Tensor | None, texts: Tensor | None = None) -> Tensor:
        """input_ids: [B, T] -> [B, T, H]. kinds: [B, T] of 0 and 1; None: all 0. texts: as for `forward`."""
        if self.words_int8 is not None and self.words_scale is not None:
            words = self.words_int8[input_ids].to(torch.float32) * self.words_scale[input_ids]
        else:
            words = self.words(input_ids)
        if texts is not None and self.shape.apart:
            # A product begins where it would alone, whatever the query's length.
            places = torch.cumsum(torch.ones_like(texts), dim=1) - 1
            states = words + self.positions(torch.where(texts > 0, torch.cumsum(texts, dim=1), places))
        else:
            states = words + self.positions.weight[: input_ids.shape[1]]
        states = states + (self.kinds.weight[0] if kinds is None else self.kinds(kinds))
        embedded: Tensor = self.norm(states)
        return embedded

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        kinds: Tensor | None = None,
        texts: Tensor | None = None,
    ) -> Tensor:
        """input_ids, attention_mask, kinds: int64 [B, T]. Returns: float32 [B, T, H].

        texts: int64 [B, T], 0 for the query's tokens and 1 for the product's, which the first `shape.apart`
        layers keep from each other; None: one text.
        """
        bias = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -1e4
        apart = bias
        if texts is not None and self.shape.apart:
            apart = bias + (texts[:, None, :, None] - texts[:, None, None, :]).abs().to(torch.float32) * -1e4
        states = self.embed(input_ids, kinds, texts)
        for number, layer in enumerate(self.layers):
            allowed = apart if number < self.shape.apart else bias
            if self.checkpointing and torch.is_grad_enabled():
                states = checkpoint(layer, states, allowed, use_reentrant=False)
            else:
                states = layer(states, allowed)
        return states


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis; zero stays zero."""
    return vectors / torch.sqrt((vectors * vectors).sum(-1, keepdim=True) + 1e-12)


class Encoder(nn.Module):
    """Text to one dense vector (mean over all tokens) and one small vector a token."""

    def __init__(self, shape: Shape, token_dimension: int) -> None:
        super().__init__()
        self.stack = Stack(shape)
        self.project = nn.Linear(shape.width, token_dimension, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """input_ids, attention_mask: int64 [B, T].

        Returns: dense float32 [B, H] and tokens float32 [B, T, token_dimension], both L2-normalised.
        """
        states = self.stack(input_ids, attention_mask)
        mask = attention_mask.to(torch.float32)[..., None]
        dense = (states * mask).sum(1) / mask.sum(1)
        return unit(dense), unit(self.project(states))


def meeting_score(
    query_states: Tensor, query: Tensor, product_states: Tensor, product: Tensor, mix: Tensor
) -> Tensor:
    """Late interaction and the cosine of the means, mixed: meaningful before any training.

    query_states, product_states: float32 [B, S, H] and [B, T, H], one and the same where both texts were read
    together; query, product: float32 [B, S], [B, T], 1 where a token belongs to that text; mix: float32 [2].
    Returns: float32 [B]. A query or product without tokens has no late interaction or mean to speak of, but a
    finite score.
    """
    query_vectors = unit(query_states)
    product_vectors = query_vectors if product_states is query_states else unit(product_states)
    similar = query_vectors @ product_vectors.transpose(1, 2) + (product[:, None, :] - 1.0) * 4.0
    best = similar.amax(dim=2)
    words = query.sum(1).clamp(min=1.0)
    late = (best * query).sum(1) / words
    mean_query = (query_states * query[..., None]).sum(1) / words[:, None]
    mean_product = (product_states * product[..., None]).sum(1) / product.sum(1).clamp(min=1.0)[:, None]
    whole = (unit(mean_query) * unit(mean_product)).sum(1)
    score: Tensor = mix[0] * late + mix[1] * whole
    return score


class CrossEncoder(nn.Module):
    """Query and product read together, to one score.

    The score is a learned mix of a linear head over [CLS] and of late interaction between the jointly
    encoded query and product tokens. The second part is meaningful before any training, so that few labels
    only have to correct it.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.stack = Stack(shape)
        self.head = nn.Linear(shape.width, 1)
        self.mix = nn.Parameter(torch.tensor([10.0, 5.0]))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """int64 [B, T] each, [CLS] query [SEP] product [SEP]; type 0 up to the first [SEP], then 1.

        Returns: scores, float32 [B].
        """
        # The types only tell the two texts apart below: the pretrained encoder never saw type 1.
        states = self.stack(input_ids, attention_mask, texts=token_type_ids)
        mask = attention_mask.to(torch.float32)
        product = token_type_ids.to(torch.float32) * mask
        query = (1.0 - token_type_ids.to(torch.float32)) * mask
        # [CLS] and the separators belong to neither text.
        last = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        product = product * last
        following = torch.cat([token_type_ids[:, 1:], torch.ones_like(token_type_ids[:, :1])], dim=1)
        query = query * (1.0 - following.to(torch.float32))
        query = torch.cat([torch.zeros_like(query[:, :1]), query[:, 1:]], dim=1)
        device = states.device.type
        if torch.is_autocast_enabled(device):
            # Cosines near 1 are told apart by their third digit, which half precision has not got.
            with torch.autocast(device, enabled=False):
                return self._scores(states.float(), query, product)
        return self._scores(states, query, product)

    def _scores(self, states: Tensor, query: Tensor, product: Tensor) -> Tensor:
        met = meeting_score(states, query, states, product, self.mix)
        scores: Tensor = met + self.head(states[:, 0]).squeeze(1)
        return scores


def pretrained_folder(name: str) -> Path:
    """Folder of a pretrained model: a folder as it stands, or a Python package that carries one.

    Raises: FileNotFoundError, saying how to name a local folder.
    """
    folder = Path(name)
    if not folder.is_dir():
        spec = importlib.util.find_spec(name.replace("-", "_")) if "/" not in name else None
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                f"{name!r} is neither a folder nor an installed package that carries a model; "
                "name a folder that holds config.json, model.safetensors and tokenizer.json"
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} holds no {file}")
    return folder


BERT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mix": "attention.output.dense",
    "mix_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}
"""Parts of a `Layer` by the names that Hugging Face's BERT gives them within a layer."""


def load_stack(
    folder: Path, *, kept_tokens: Sequence[int], layers: Sequence[int] | None, positions: int
) -> Stack:
    """A stack with the weights of a Hugging Face BERT checkpoint.

    kept_tokens: old token ids, in the order of the new vocabulary, and NEW_ROW for tokens that the checkpoint
    lacks: their rows are drawn (`new_rows`), the same ones at every call. layers: which layers to keep, in
    order; None: all. positions: how many positions to keep.
    """
    config = json.loads((folder / "config.json").read_text())
    chosen = list(range(config["num_hidden_layers"])) if layers is None else list(layers)
    weights = load_file(folder / "model.safetensors")
    weights = {key.removeprefix("bert."): value for key, value in weights.items()}
    shape = Shape(
        layers=len(chosen),
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        vocabulary=len(kept_tokens),
        positions=min(positions, config["max_position_embeddings"]),
        epsilon=config["layer_norm_eps"],
    )
    stack = Stack(shape)
    state = {
        "words.weight": _word_table(folder, weights["embeddings.word_embeddings.weight"], kept_tokens),
        "positions.weight": weights["embeddings.position_embeddings.weight"][: shape.positions],
        "kinds.weight": weights["embeddings.token_type_embeddings.weight"],
        "norm.weight": weights["embeddings.LayerNorm.weight"],
        "norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    for new, old in enumerate(chosen):
        for ours, theirs in BERT_NAMES.items():
            for part in ("weight", "bias"):
                state[f"layers.{new}.{ours}.{part}"] = weights[f"encoder.layer.{old}.{theirs}.{part}"]
    stack.load_state_dict({key: value.to(torch.float32) for key, value in state.items()})
    return stack


def new_rows(alike: Tensor, count: int, spread: float = NEW_ROW_SPREAD) -> Tensor:
    """Rows for words that a table lacks: the mean of its rows of the same kind, and noise to tell them apart.

    alike: [n, H], n at least 2. spread: of the noise, in standard deviations of `alike` along each axis.
    Returns: float32 [count, H]; a longer draw starts with the shorter one.
    """
    rows = alike.to(torch.float32)
    noise = torch.stack(
        [torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(at)) for at in range(count)]
    )
    return rows.mean(0) + spread * rows.std(0) * noise


def _word_table(folder: Path, table: Tensor, kept_tokens: Sequence[int]) -> Tensor:
    new = [at for at, token in enumerate(kept_tokens) if token == NEW_ROW]
    if not new:
        return table[list(kept_tokens)]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    # Added characters are Chinese before all else, and nearest to what the checkpoint knows of Chinese.
    alike = [token for word, token in vocabulary.items() if len(word) == 1 and "\u3400" <= word <= "\u9fff"]
    if len(alike) < 2:
        alike = [token for token in kept_tokens if token != NEW_ROW]
    words = table[[max(token, 0) for token in kept_tokens]].to(torch.float32)
    words[new] = new_rows(table[alike], len(new))
    return words


def save_model(path: Path, model: Encoder | CrossEncoder, **extra: object) -> None:
    """Write weights and shape; moved into place last, so a kill leaves the older file intact."""
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"shape": asdict(model.stack.shape), "state": model.state_dict(), **extra}, part)
    part.rename(path)


def load_cross(path: Path) -> CrossEncoder:
    """A cross-encoder as saved."""
    saved = torch.load(path, weights_only=True)
    model = CrossEncoder(Shape(**saved["shape"]))
    model.load_state_dict(saved["state"])
    return model.eval()


def load_encoder(path: Path) -> Encoder:
    """An encoder as saved."""
    saved = torch.load(path, weights_only=True)
    state = saved["state"]
    model = Encoder(Shape(**saved["shape"]), state["project.weight"].shape[0])
    model.load_state_dict(state)
    return model.eval()
