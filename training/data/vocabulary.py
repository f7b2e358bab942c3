"""The word pieces of a run: the pretrained vocabulary, cut to what the data uses, and characters it lacked.

A cut keeps old rows of the word table. Where a language is foreign to the pretrained model (an English one
knows 488 Chinese characters of the few thousand in use), most of its text would become [UNK]: single
characters that the data needs are then added at the end, as rows that are still to be made (`NEW_ROW`;
`training.models.networks.load_stack` makes them).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Encoding, Tokenizer

from muster.v1 import catalogue_pb2
from training.data.tables import JudgedQuery
from training.data.text import product_text
from training.models.networks import NEW_ROW, pretrained_folder
from training.recipe import Recipe

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_COUNTED_TOKENS_MAX = 96
_FIELDS = ("title", "brand", "category", "description", "bullets")
_INSIDE = "##"


def cut_vocabulary(
    recipe: Recipe,
    products: Iterable[catalogue_pb2.Product],
    queries: Iterable[JudgedQuery],
    texts: Iterable[str] = (),
) -> tuple[str, list[int]]:
    """Cut the pretrained WordPiece vocabulary to what products, queries and other texts use.

    Kept: special tokens, single ASCII and Latin-1 characters (so any such word still has pieces), the pieces
    of all queries, then the commonest pieces of products and texts. Where the recipe adds characters, also
    every known single character that occurs, and at the end the commonest that the vocabulary lacks.
    Returns: the tokenizer as JSON, and old token ids in the order of the new ones, `NEW_ROW` for added ones.
    """
    folder = pretrained_folder(recipe.pretrained)
    value = json.loads((folder / "tokenizer.json").read_text())
    value["padding"] = value["truncation"] = None
    whole = Tokenizer.from_str(json.dumps(value))
    vocabulary: dict[str, int] = value["model"]["vocab"]
    settings = recipe.vocabulary
    counts: Counter[int] = Counter()
    written = [product_text(one, _FIELDS) for one in products] + list(texts)
    unknown = vocabulary["[UNK]"]
    wanting: list[str] = []
    for text, encoding in zip(written, whole.encode_batch(written, add_special_tokens=False), strict=True):
        counts.update(encoding.ids[:_COUNTED_TOKENS_MAX])
        if unknown in encoding.ids:
            wanting.append(text)
    questions = [query.text for query in queries]
    asked: set[int] = set()
    for text, encoding in zip(
        questions, whole.encode_batch(questions, add_special_tokens=False), strict=True
    ):
        asked.update(encoding.ids)
        if unknown in encoding.ids:
            wanting.append(text)
    kept = {vocabulary[token] for token in SPECIAL_TOKENS}
    single = {
        number: token.removeprefix(_INSIDE)
        for token, number in vocabulary.items()
        if len(token.removeprefix(_INSIDE)) == 1
    }
    kept |= {number for number, character in single.items() if ord(character) < 0x250}
    kept |= asked
    added: list[str] = []
    if settings.added_max:
        kept |= {number for number in counts if number in single}
        missing = _missing_pieces(whole, vocabulary, wanting)
        added = [piece for piece, count in missing.most_common() if count >= settings.added_count_min]
        added = added[: max(0, min(settings.added_max, settings.tokens_max - len(kept)))]
    for number, count in counts.most_common():
        if len(kept) + len(added) >= settings.tokens_max or count < settings.count_min:
            break
        kept.add(number)
    order = sorted(kept)
    return _renumbered(value, order, added), order + [NEW_ROW] * len(added)


def unknown_characters(tokenizer: Tokenizer, encoding: Encoding) -> int:
    """How many characters of a text stand in words without pieces."""
    whole = tokenizer.token_to_id("[UNK]")
    if whole not in encoding.ids:
        return 0
    pieces = zip(encoding.ids, encoding.offsets, strict=True)
    return sum(end - start for number, (start, end) in pieces if number == whole)


def _missing_pieces(whole: Tokenizer, vocabulary: dict[str, int], texts: Sequence[str]) -> Counter[str]:
    """Single characters, "##" before those inside a word, that words without pieces lack, with counts."""
    unknown = vocabulary["[UNK]"]
    words: Counter[str] = Counter()
    for text in texts:
        plain = whole.normalizer.normalize_str(text)
        words.update(word for word, _ in whole.pre_tokenizer.pre_tokenize_str(plain))
    missing: Counter[str] = Counter()
    for word, count in words.items():
        pieces = [word[0], *(f"{_INSIDE}{character}" for character in word[1:])]
        # A word that is known as a whole, or in longer pieces, needs none of them.
        if unknown in whole.encode(word, add_special_tokens=False).ids:
            for piece in dict.fromkeys(pieces):
                if piece not in vocabulary:
                    missing[piece] += count
    return missing


def _renumbered(value: dict[str, Any], order: Sequence[int], added: Sequence[str]) -> str:
    """The tokenizer with only the tokens of `order`, in that order, and the added ones after them."""
    renumbered = {old: new for new, old in enumerate(order)}
    value["model"]["vocab"] = {
        token: renumbered[number]
        for token, number in sorted(value["model"]["vocab"].items(), key=lambda item: item[1])
        if number in renumbered
    } | {piece: len(order) + at for at, piece in enumerate(added)}
    value["added_tokens"] = [
        one | {"id": renumbered[one["id"]]} for one in value["added_tokens"] if one["id"] in renumbered
    ]
    processor = value.get("post_processor") or {}
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [renumbered[number] for number in special["ids"]]
    for part in ("cls", "sep"):
        if part in processor:
            processor[part] = [processor[part][0], renumbered[processor[part][1]]]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
