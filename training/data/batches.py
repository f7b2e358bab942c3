"""Word pieces to padded batches, as the engine pads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor


@dataclass(frozen=True)
class Specials:
    """Ids of the tokens that frame a text."""

    pad: int
    start: int
    end: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Specials:
        """Look them up. Raises: ValueError where the tokenizer has none."""
        pad, start, end = (tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
        if pad is None or start is None or end is None:
            raise ValueError("the tokenizer has no [PAD], [CLS] or [SEP]")
        return cls(pad, start, end)


def pieces_of(tokenizer: Tokenizer, texts: Sequence[str], tokens_max: int) -> list[list[int]]:
    """Piece ids of each text, without special tokens, cut to tokens_max."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [encoding.ids[:tokens_max] for encoding in encodings]


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of ids to one int64 tensor [rows, longest]."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows], dtype=torch.long)


def text_batch(rows: Sequence[Sequence[int]], specials: Specials) -> tuple[Tensor, Tensor]:
    """[CLS] text [SEP] for each row. Returns: input_ids, attention_mask, int64 [rows, T]."""
    framed = [[specials.start, *row, specials.end] for row in rows]
    return pad(framed, specials.pad), pad([[1] * len(row) for row in framed], 0)


def pair_batch(
    query: Sequence[int], products: Sequence[Sequence[int]], specials: Specials
) -> tuple[Tensor, Tensor, Tensor]:
    """[CLS] query [SEP] product [SEP]. Returns: input_ids, attention_mask, token_type_ids, int64 [n, T]."""
    first = [specials.start, *query, specials.end]
    framed = [[*first, *row, specials.end] for row in products]
    kinds = [[0] * len(first) + [1] * (len(row) + 1) for row in products]
    return pad(framed, specials.pad), pad([[1] * len(row) for row in framed], 0), pad(kinds, 0)


def by_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of near-equal length, so little is padded."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
