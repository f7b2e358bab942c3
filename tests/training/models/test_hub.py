"""Any encoder of the Hugging Face kind scores pairs, and one that cannot be had says how to have it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.training.conftest import Workplace
from training.models.hub import (
    Frame,
    PairScorer,
    PretrainedError,
    load_scorer,
    new_scorer,
    open_pretrained,
    save_scorer,
)

QUERY, PRODUCTS = [40, 50], [[60, 61, 62], [50], []]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hub's library reads the variable once, when it is loaded.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.set_num_threads(1)


@pytest.fixture(params=["cross", "bi"])
def scorer(workplace: Workplace, request: pytest.FixtureRequest) -> PairScorer:
    return new_scorer(workplace.recipe.pretrained, request.param)[0].eval()


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def reference(scorer: PairScorer, query: list[int], product: list[int]) -> float:
    """The score in plain numpy, over states computed without any padding."""

    def states(ids: list[int]) -> NDArray[np.float64]:
        encoder: Any = scorer.encoder
        found = encoder(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)
        )
        return np.asarray(found.last_hidden_state[0].double().numpy())

    start, end = 2, 3
    if scorer.kind == "cross":
        both = states([start, *query, end, *product, end])
        first = both[0]
        asked, offered = both[1 : 1 + len(query)], both[2 + len(query) : 2 + len(query) + len(product)]
    else:
        asked, offered = states([start, *query, end])[1:-1], states([start, *product, end])[1:-1]
    late = (unit(asked) @ unit(offered).T).max(axis=1).mean()
    whole = unit(asked.mean(0)) @ unit(offered.mean(0))
    head = scorer.head.weight[0].double().numpy() @ first if scorer.kind == "cross" else 0.0
    mix = scorer.mix.double().numpy()
    return float(mix[0] * late + mix[1] * whole + head + scorer.head.bias.item())


def test_the_score_is_the_formula_whatever_is_padded(scorer: PairScorer) -> None:
    with torch.no_grad():
        scorer.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        scorer.mix.copy_(torch.tensor([7.0, 3.0]))
        found = scorer.score(QUERY, PRODUCTS[:2])
        for at, product in enumerate(PRODUCTS[:2]):
            assert found[at] == pytest.approx(reference(scorer, QUERY, product), abs=1e-3)


def test_empty_texts_have_a_finite_score(scorer: PairScorer) -> None:
    assert np.isfinite(scorer.score(QUERY, PRODUCTS)).all()
    assert np.isfinite(scorer.score([], PRODUCTS)).all()


def test_half_precision_changes_scores_little(scorer: PairScorer) -> None:
    whole = np.array(scorer.score(QUERY, PRODUCTS[:2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = scorer(QUERY, PRODUCTS[:2])
    assert half.dtype == torch.float32
    assert np.abs(half.detach().numpy() - whole).max() < 0.3


def test_a_saved_scorer_scores_the_same(scorer: PairScorer, workplace: Workplace, tmp_path: Path) -> None:
    tokenizer = new_scorer(workplace.recipe.pretrained, scorer.kind)[1]
    with torch.no_grad():
        scorer.mix.add_(0.5)
    save_scorer(tmp_path / "one", scorer, tokenizer, {"fold": 1})
    again, pieces = load_scorer(tmp_path / "one")
    assert again.score(QUERY, PRODUCTS) == scorer.score(QUERY, PRODUCTS)
    assert pieces.encode("steel kettle").ids == tokenizer.encode("steel kettle").ids
    with pytest.raises(FileExistsError):
        save_scorer(tmp_path / "one", scorer, tokenizer, {})
    assert [one.name for one in tmp_path.iterdir()] == ["one"]


def test_only_the_layers_asked_for_are_kept(workplace: Workplace) -> None:
    whole: Any = open_pretrained(workplace.recipe.pretrained)[0]
    upper: Any = open_pretrained(workplace.recipe.pretrained, layers=[1])[0]
    assert (len(whole.encoder.layer), len(upper.encoder.layer), upper.config.num_hidden_layers) == (2, 1, 1)
    for one, other in zip(
        whole.encoder.layer[1].parameters(), upper.encoder.layer[0].parameters(), strict=True
    ):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="has layers 0 to 1, and no 2"):
        open_pretrained(workplace.recipe.pretrained, layers=[0, 2])


@pytest.mark.parametrize("name", ["no-such-model", "somebody/no-such-model", "os.path", "json"])
def test_a_model_that_cannot_be_had_says_how_to_give_a_folder(name: str) -> None:
    with pytest.raises(
        PretrainedError, match=rf"{name}.*HF_HUB_OFFLINE is set.*local folder that holds config"
    ):
        open_pretrained(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"holds no config\.json"):
        open_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "no-such-type"}, "no pretrained encoder"), ({"model_type": "t5"}, "it has a decoder")],
)
def test_a_folder_with_another_kind_of_model_is_refused(
    workplace: Workplace, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = Path(workplace.recipe.pretrained)
    config = json.loads((folder / "config.json").read_text()) | change
    if change["model_type"] == "t5":
        config = {"model_type": "t5", "d_model": 8, "num_layers": 1, "num_heads": 1, "vocab_size": 30}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(PretrainedError, match=message):
        open_pretrained(str(tmp_path))


def test_weights_in_a_pickle_are_not_read(workplace: Workplace, tmp_path: Path) -> None:
    folder = Path(workplace.recipe.pretrained)
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).symlink_to(folder / name)
    torch.save({"embeddings.word_embeddings.weight": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(PretrainedError, match="no pretrained encoder"):
        open_pretrained(str(tmp_path))


def test_special_tokens_stand_as_the_tokenizer_puts_them() -> None:
    """As in RoBERTa: <s> query </s></s> product </s>."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    frame = Frame.of(tokenizer, 1)
    assert frame.pair == ([0], [2, 2], [2])
    assert frame.single == ([0], [2])


def test_transformers_is_loaded_only_when_a_model_is_opened() -> None:
    import subprocess

    asked = (
        "import sys, training.models.hub; sys.exit('transformers' in sys.modules or 'peft' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", asked], cwd=Path(__file__).parents[3]).returncode == 0
