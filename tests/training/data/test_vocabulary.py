"""A vocabulary keeps the characters that the data uses, and gains those that it lacked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from muster.v1 import catalogue_pb2
from tests.training.tiny import RECIPE, write_pretrained
from training.data.tables import JudgedQuery
from training.data.vocabulary import cut_vocabulary, unknown_characters
from training.models.networks import NEW_ROW, load_stack, new_rows
from training.recipe import Recipe, load_recipe

KNOWN = ["手", "机", "水"]
TITLES = ["手机壳 透明", "保温水杯", "保温杯 500毫升", "スマホ"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("vocabulary")
    pretrained = write_pretrained(folder / "pretrained", [*KNOWN, *(f"##{one}" for one in KNOWN), "kettle"])
    (folder / "recipe.toml").write_text(RECIPE.format(pretrained=pretrained))
    found = load_recipe(folder / "recipe.toml")
    return replace(found, vocabulary=replace(found.vocabulary, added_max=100, added_count_min=1))


def cut(recipe: Recipe, queries: list[str] | None = None) -> tuple[Tokenizer, list[int]]:
    products = [catalogue_pb2.Product(product_id=title, title=title) for title in TITLES]
    asked = [JudgedQuery("shop", text, "train", text, {}) for text in queries or ["保温杯"]]
    text, kept = cut_vocabulary(recipe, products, asked)
    return Tokenizer.from_str(text), kept


def test_every_character_of_the_data_gets_a_piece(recipe: Recipe) -> None:
    tokenizer, kept = cut(recipe)
    for title in TITLES:
        tokens = tokenizer.encode(title, add_special_tokens=False).tokens
        assert "[UNK]" not in tokens
        assert "".join(token.removeprefix("##") for token in tokens) == title.replace(" ", "")
    assert kept.count(NEW_ROW) == len({*"壳透明保温杯毫升"}) + len("スマホ")
    # Old pieces keep their order and come first.
    old = [token for token in kept if token != NEW_ROW]
    assert old == sorted(old)
    assert kept[: len(old)] == old


def test_known_characters_keep_their_rows_however_rare(recipe: Recipe) -> None:
    strict = replace(recipe, vocabulary=replace(recipe.vocabulary, count_min=50))
    tokenizer, kept = cut(strict)
    whole = json.loads((Path(recipe.pretrained) / "tokenizer.json").read_text())["model"]["vocab"]
    for character in KNOWN:
        assert kept[tokenizer.get_vocab()[character]] == whole[character]


def test_the_commonest_characters_come_first_and_the_rest_stay_unknown(recipe: Recipe) -> None:
    few = replace(recipe, vocabulary=replace(recipe.vocabulary, added_max=3))
    tokenizer, kept = cut(few)
    assert kept.count(NEW_ROW) == 3
    assert {token for token in "保温杯" if tokenizer.token_to_id(token) is not None} == {*"保温杯"}
    text = "保温水壳"
    assert unknown_characters(tokenizer, tokenizer.encode(text, add_special_tokens=False)) == 1


def test_the_size_asked_for_is_kept_with_added_characters_too(recipe: Recipe) -> None:
    base = len(cut(replace(recipe, vocabulary=replace(recipe.vocabulary, added_max=0)))[1])
    small = replace(recipe, vocabulary=replace(recipe.vocabulary, tokens_max=base + 2))
    assert len(cut(small)[1]) <= base + 2


def test_nothing_is_added_unless_the_recipe_says_so(recipe: Recipe) -> None:
    plain = replace(recipe, vocabulary=replace(recipe.vocabulary, added_max=0))
    tokenizer, kept = cut(plain)
    assert NEW_ROW not in kept
    assert "[UNK]" in tokenizer.encode("保温杯").tokens


def test_the_tokenizer_is_read_back_as_it_was_written(recipe: Recipe) -> None:
    tokenizer, kept = cut(recipe)
    again = Tokenizer.from_str(tokenizer.to_str())
    assert again.get_vocab() == tokenizer.get_vocab()
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(kept)))
    assert again.encode("手机壳 kettle").ids == tokenizer.encode("手机壳 kettle").ids


def test_a_stack_has_the_old_rows_and_new_ones_like_the_known_characters(recipe: Recipe) -> None:
    folder = Path(recipe.pretrained)
    _, kept = cut(recipe)
    stack, again = (load_stack(folder, kept_tokens=kept, layers=[0], positions=16) for _ in range(2))
    words = stack.words.weight.detach()
    table = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    known = [at for at, token in enumerate(kept) if token != NEW_ROW]
    new = [at for at, token in enumerate(kept) if token == NEW_ROW]
    torch.testing.assert_close(words[known], table[[kept[at] for at in known]])
    torch.testing.assert_close(words, again.words.weight.detach())
    assert len(torch.unique(words[new], dim=0)) == len(new)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    alike = table[[vocabulary[character] for character in KNOWN]]
    torch.testing.assert_close(words[new], new_rows(alike, len(new)))


def test_new_rows_follow_the_rows_they_are_like() -> None:
    alike = torch.randn(400, 8, generator=torch.Generator().manual_seed(1)) * 0.2 + 3.0
    rows = new_rows(alike, 500)
    torch.testing.assert_close(rows.mean(0), alike.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(rows.std(0), alike.std(0), atol=0.05, rtol=0)
    torch.testing.assert_close(new_rows(alike, 3), rows[:3])
    torch.testing.assert_close(new_rows(alike, 2, 0.0), alike.mean(0).expand(2, -1))
