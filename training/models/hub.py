"""Any Hugging Face encoder as a scorer of (query, product) pairs.

The encoder comes by the name of a local folder, of an installed Python package that carries a model, or of
the hub. The score over its last hidden states is the one of `training.models.networks`: late interaction and
the cosine of the means, mixed, which ranks before any training, and a linear head that few labels can teach.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.data.batches import by_length, pad
from training.models.networks import CrossEncoder, load_stack, meeting_score, pretrained_folder

# Puts the untrained score near 0 for a doubtful product, as in `training.cross`.
_BIAS = -9.0
_DETAILS = "scorer.json"
_SCORE = "score.safetensors"


class PretrainedError(FileNotFoundError):
    """A pretrained model cannot be had or used; the message says how to name another."""


@dataclass(frozen=True)
class Frame:
    """Special tokens round texts, as the model's tokenizer puts them.

    pad: fills rows. pair: before the first text, between the two, after the second. single: before and after
    a text that stands alone.
    """

    pad: int
    pair: tuple[list[int], list[int], list[int]]
    single: tuple[list[int], list[int]]

    @classmethod
    def of(cls, tokenizer: Tokenizer, pad_id: int) -> Frame:
        """Read them off one framed pair and one framed text."""
        both = tokenizer.encode("a", "a")
        parts: tuple[list[int], list[int], list[int]] = ([], [], [])
        seen = -1
        for number, sequence in zip(both.ids, both.sequence_ids, strict=True):
            if sequence is None:
                parts[seen + 1].append(number)
            else:
                seen = sequence
        alone = tokenizer.encode("a")
        texts = [at for at, sequence in enumerate(alone.sequence_ids) if sequence is not None]
        return cls(pad_id, parts, (alone.ids[: texts[0]], alone.ids[texts[-1] + 1 :]))


class PairScorer(nn.Module):
    """A pretrained encoder and the score of a query and its products.

    kind: "cross" reads query and product together; "bi" reads each alone and compares their tokens.
    """

    def __init__(self, encoder: nn.Module, kind: str, frame: Frame) -> None:
        super().__init__()
        config: Any = encoder.config
        self.encoder, self.kind, self.frame = encoder, kind, frame
        self.head = nn.Linear(config.hidden_size, 1)
        self.mix = nn.Parameter(torch.tensor([10.0, 5.0]))
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, _BIAS)
        # Two texts that were read apart have no common first token for a head to look at.
        self.head.weight.requires_grad_(kind == "cross")

    def forward(self, query: Sequence[int], products: Sequence[Sequence[int]]) -> Tensor:
        """Piece ids of a query and of n products, without special tokens. Returns: scores, float32 [n]."""
        if self.kind == "bi":
            asked, query_mask = self._alone([query])
            offered, product_mask = self._alone(products)
            count = len(products)
            asked, query_mask = asked.expand(count, -1, -1), query_mask.expand(count, -1)
            # Cosines near 1 are told apart by their third digit, which half precision has not got.
            with torch.autocast(asked.device.type, enabled=False):
                met = meeting_score(asked.float(), query_mask, offered.float(), product_mask, self.mix)
                return met + self.head.bias
        before, between, after = self.frame.pair
        rows = [[*before, *query, *between, *row, *after] for row in products]
        states, mask = self._states(rows)
        is_query = _places(mask, len(before), [len(query)] * len(rows))
        start = len(before) + len(query) + len(between)
        is_product = _places(mask, start, [len(row) for row in products])
        with torch.autocast(states.device.type, enabled=False):
            states = states.float()
            met = meeting_score(states, is_query, states, is_product, self.mix)
            scores: Tensor = met + self.head(states[:, 0]).squeeze(1)
            return scores

    def _alone(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        before, after = self.frame.single
        states, mask = self._states([[*before, *row, *after] for row in texts])
        return states, _places(mask, len(before), [len(row) for row in texts])

    def _states(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        device = self.mix.device
        ids = pad(rows, self.frame.pad).to(device)
        mask = pad([[1] * len(row) for row in rows], 0).to(device)
        states: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return states, mask

    @torch.no_grad()
    def score(self, query: Sequence[int], products: Sequence[Sequence[int]]) -> list[float]:
        """Scores of one query's products, in their order, without gradients."""
        scores = [0.0] * len(products)
        for batch in by_length(products, 64):
            found = self(query, [products[at] for at in batch]).tolist()
            for at, score in zip(batch, found, strict=True):
                scores[at] = score
        return scores


def open_pretrained(name: str, *, layers: Sequence[int] = ()) -> tuple[nn.Module, Any]:
    """An encoder and its tokenizer by the name of a folder, an installed package or the hub.

    layers: which layers to keep, in order; none: all. HF_HUB_OFFLINE is respected, code that comes with a
    model is never run, and weights are only read from safetensors.
    Returns: the model, without a pooler, in evaluation mode; a fast tokenizer.
    Raises: PretrainedError saying how to name a local folder; ValueError for layers that are not there.
    """
    transformers = _transformers()
    source = _source(name)
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise PretrainedError("it has a decoder: an encoder alone is needed, BERT and its kin")
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = transformers.AutoModel.from_pretrained(
            source, config=config, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # no network, no such name, a broken file: each library says so in its own way
        first = (str(error).splitlines() or [type(error).__name__])[0]
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise PretrainedError(
            f"no pretrained encoder could be had by the name {name!r}{offline}: {first}. Give the path of a "
            "local folder that holds config.json, model.safetensors and tokenizer.json: download it where "
            "there is a network (`hf download NAME --local-dir FOLDER`) and copy it here"
        ) from error
    if not tokenizer.is_fast:
        raise PretrainedError(f"{name!r} has no fast tokenizer: its folder needs a tokenizer.json")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if layers:
        _keep_layers(model, layers, name)
    return model.eval(), tokenizer


def new_scorer(name: str, kind: str, *, layers: Sequence[int] = ()) -> tuple[PairScorer, Tokenizer]:
    """An untrained scorer and its tokenizer, which neither pads nor cuts. Raises: as `open_pretrained`."""
    model, tokenizer = open_pretrained(name, layers=layers)
    pieces = _plain(tokenizer)
    frame = Frame.of(pieces, tokenizer.pad_token_id or 0)
    return PairScorer(model, kind, frame), pieces


def positions_max(scorer: PairScorer) -> int:
    """How many tokens the encoder reads at once, special ones included; a large number where it is open."""
    config: Any = scorer.encoder.config
    return int(getattr(config, "max_position_embeddings", 0) or 2**20)


@dataclass(frozen=True)
class SavedScorer:
    """What a folder of a scorer says of it. about: facts its maker added."""

    kind: str
    about: dict[str, Any]


def save_scorer(folder: Path, scorer: PairScorer, tokenizer: Tokenizer, about: dict[str, Any]) -> None:
    """Write a Hugging Face folder with the score's own weights beside it.

    It appears as a whole: everything is written next to it and moved. Raises: FileExistsError; OSError.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    encoder: Any = scorer.encoder
    encoder.save_pretrained(part, safe_serialization=True)
    tokenizer.save(str(part / "tokenizer.json"))
    score = {key: value for key, value in scorer.state_dict().items() if not key.startswith("encoder.")}
    save_file({key: value.contiguous() for key, value in score.items()}, part / _SCORE)
    details = {"kind": scorer.kind, "frame": asdict(scorer.frame), "about": about}
    (part / _DETAILS).write_text(json.dumps(details, indent=2))
    part.rename(folder)


def about_scorer(folder: Path) -> SavedScorer:
    """Its details alone. Raises: FileNotFoundError."""
    details = json.loads((folder / _DETAILS).read_text())
    return SavedScorer(details["kind"], details["about"])


def load_scorer(folder: Path) -> tuple[PairScorer, Tokenizer]:
    """What `save_scorer` wrote, in evaluation mode. Raises: FileNotFoundError; PretrainedError."""
    details = json.loads((folder / _DETAILS).read_text())
    transformers = _transformers()
    try:
        model = transformers.AutoModel.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise PretrainedError(
            f"{folder} holds no usable encoder ({error}): remove it and train it again"
        ) from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    frame = Frame(details["frame"]["pad"], tuple(details["frame"]["pair"]), tuple(details["frame"]["single"]))
    scorer = PairScorer(model, details["kind"], frame)
    scorer.load_state_dict(load_file(folder / _SCORE), strict=False)
    return scorer.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def _places(mask: Tensor, start: int, lengths: Sequence[int]) -> Tensor:
    """float32 [n, T]: 1 from `start` on, for as many places as the row's length says."""
    places = torch.arange(mask.shape[1], device=mask.device)[None, :]
    ends = torch.tensor(lengths, device=mask.device)[:, None] + start
    return ((places >= start) & (places < ends)).float()


def _source(name: str) -> str:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise PretrainedError(
                f"{folder} holds no config.json: name a folder that holds config.json, model.safetensors and "
                "tokenizer.json"
            )
        return str(folder)
    try:
        return str(pretrained_folder(name))
    except (FileNotFoundError, ModuleNotFoundError, ValueError):
        return name


def _transformers() -> Any:
    transformers = importlib.import_module("transformers")
    # Its reports of unused pooler weights and its bars of loading say nothing that a caller can act on.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _plain(tokenizer: Any) -> Tokenizer:
    pieces = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pieces.no_padding()
    pieces.no_truncation()
    return pieces


def _keep_layers(model: nn.Module, layers: Sequence[int], name: str) -> None:
    config: Any = model.config
    count = int(config.num_hidden_layers)
    if list(layers) == list(range(count)):
        return
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    if len(lists) != 1:
        raise ValueError(f"layers: those of {name!r} cannot be told apart: use [] for all of them")
    wrong = [at for at in layers if not 0 <= at < count]
    if wrong:
        raise ValueError(f"layers: {name!r} has layers 0 to {count - 1}, and no {wrong[0]}")
    kept = [lists[0][at] for at in layers]
    while len(lists[0]):
        del lists[0][-1]
    lists[0].extend(kept)
    config.num_hidden_layers = len(kept)


def as_cross_encoder(
    folder: Path,
    scorer: PairScorer,
    *,
    positions: int,
    kept_tokens: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> CrossEncoder | None:
    """A saved scorer as a stack of ours, to be trained on or exported; None where it is built otherwise.

    kept_tokens, layers, positions: as for `training.models.networks.load_stack`; None: all of them.
    """
    config = json.loads((folder / "config.json").read_text())
    if scorer.kind != "cross" or config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        return None
    if kept_tokens is None:
        kept_tokens = range(config["vocab_size"])
    stack = load_stack(folder, kept_tokens=kept_tokens, layers=layers, positions=positions)
    made = CrossEncoder(stack.shape)
    made.stack = stack
    made.head.load_state_dict(scorer.head.state_dict())
    made.mix.data.copy_(scorer.mix.data)
    return made.eval()
