"""A training text that asks what a held-out text asks is found, however it is written."""

from __future__ import annotations

import random

import pytest

from training.data.leakage import Text, alike, find_leaks, jaccard, words


def text(key: str, split: str, written: str, name: str = "shop") -> Text:
    return Text(name, key, split, written)


def test_the_same_words_in_any_order_case_and_punctuation_leak() -> None:
    leaks = find_leaks(
        [
            text("1", "train", "Red shoes"),
            text("2", "dev", "shoes, RED"),
            text("3", "train", "red shoe"),
            text("4", "test", "blue shoes"),
            text("5", "train", "blue shoes"),
        ]
    )
    assert {(leak.train.key, leak.other.key, leak.kind) for leak in leaks} == {
        ("1", "2", "same words"),
        ("5", "4", "same words"),
    }


def test_a_near_duplicate_leaks_from_the_threshold_on() -> None:
    texts = [text("1", "train", "a b c d"), text("2", "dev", "a b c d e")]
    (leak,) = find_leaks(texts, 0.8)
    assert (leak.similarity, leak.kind) == (0.8, "near duplicate")
    assert find_leaks(texts, 0.81) == []


def test_a_query_of_another_sets_dev_is_a_leak_and_says_so() -> None:
    (leak,) = find_leaks([text("1", "train", "red shoes"), text("1", "dev", "red shoes", "mall")])
    assert leak.kind == "same words, other set"


def test_unlabelled_texts_leak_as_training_texts_do() -> None:
    leaks = find_leaks([text("1", "unlabelled", "red shoes"), text("2", "test", "red shoes")])
    assert [leak.train.key for leak in leaks] == ["1"]


def test_chinese_is_compared_character_by_character() -> None:
    assert words("手机壳 iPhone") == {"手", "机", "壳", "iphone"}
    (leak,) = find_leaks([text("1", "train", "你晚上吃了什么"), text("2", "dev", "你晚上吃什么了")])
    assert leak.kind == "same words"
    assert find_leaks([text("1", "train", "你晚上吃了什么"), text("2", "dev", "你早饭吃了什么")], 0.8) == []


def test_texts_without_a_word_are_compared_as_they_stand() -> None:
    assert [leak.train.key for leak in find_leaks([text("1", "train", "?!"), text("2", "dev", " ?!")])] == [
        "1"
    ]
    assert find_leaks([text("1", "train", "?!"), text("2", "dev", "!?")]) == []


@pytest.mark.parametrize("near_duplicate", [0.5, 0.6, 0.8, 1.0])
def test_comparing_rare_words_alone_finds_what_comparing_everything_finds(near_duplicate: float) -> None:
    draw = random.Random(4)
    vocabulary = [f"w{at}" for at in range(12)]
    made = [
        " ".join(draw.choices(vocabulary[: draw.randint(3, 12)], k=draw.randint(1, 7))) for _ in range(160)
    ]
    texts = [text(str(at), "train" if at % 2 else "dev", written) for at, written in enumerate(made)]
    train, dev = ([one for one in texts if one.split == split] for split in ("train", "dev"))
    wanted = {
        one.key: best
        for one in train
        if (best := max(jaccard(words(one.text), words(other.text)) for other in dev)) >= near_duplicate
    }
    found = {leak.train.key: leak.similarity for leak in find_leaks(texts, near_duplicate)}
    assert found == pytest.approx(wanted)
    assert 0 < len(found) < len(train)


def test_a_similarity_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        alike([], [], 0.0)
