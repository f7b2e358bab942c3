"""A pretrained model, data and a recipe so small that every stage runs in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from muster.products import read_products
from muster.products.synthetic import write_synthetic
from training.recipe import Recipe, load_recipe

WIDTH, LAYERS, INNER, POSITIONS = 64, 2, 96, 64

RECIPE = """
name = "tiny"
seed = 5
folds = 2
pretrained = "{pretrained}"
licences = ["random weights: none"]

[[data]]
name = "shop"
folder = "shop"
role = "judged"
licence = "made up"
source = "synthetic"
targets = {{ "0.0" = 0.0, "1.0" = 0.3, "2.0" = 0.7, "3.0" = 1.0 }}
grades = {{ "0.0" = "wrong", "1.0" = "poor", "2.0" = "fair", "3.0" = "right" }}

[text]
dense_fields = ["title", "brand", "category"]
cross_fields = ["title", "brand"]
dense_tokens_max = 16
late_tokens_max = 12
cross_tokens_max = 12
query_tokens_max = 8

[vocabulary]
tokens_max = 400
count_min = 1

[encoder]
token_dimension = 64
sample = 60
steps = 5
batch_products = 4
learning_rate = 0.001

[teacher]
layers = [0, 1]
epochs = 1
group = 8
random_products = 2
learning_rate = 0.001
head_learning_rate = 0.002
warm_up = 0.1
bce_weight = 0.3
pairs = 0
minutes_max = 1.0
precision = "off"
evaluate_steps = 8

[cross_small]
layers = [0]
epochs = 1
group = 8
random_products = 2
learning_rate = 0.001
head_learning_rate = 0.002
warm_up = 0.1
bce_weight = 0.3
pairs = 32
minutes_max = 1.0

[cross_large]
layers = [0, 1]
epochs = 0
group = 8
random_products = 2
learning_rate = 0.001
head_learning_rate = 0.002
warm_up = 0.1
bce_weight = 0.3
pairs = 0
minutes_max = 1.0
start = "teacher"
keep_share = 0.25

[rank]
trees = 6
leaves = 4
learning_rate = 0.1
l2 = 1.0
feature_fraction = 0.8
rows_min = 5
seeds = 2
width = 50
monotone = {{ bm25 = 1, late = 1, late_max_gap = -1 }}
kind = "lambdamart"
features = ["bm25_share", "dense", "late"]
linear_l2 = 0.001
rows = 30

[plans]
late_depths = [10, 50]
cross_depths = [4, 8]
width = 50
bootstrap = 200
interval = 0.95
tier_confidence = 0.8
partitions = 2

[quantise]
ranges = ["max", "mse"]
calibration_texts = 32

[quantise.recovery]
steps = 6
batch = 8
learning_rate = 0.0001

[lexical]
boosts = {{ title = 2.0, brand = 1.0, category = 1.0, bullets = 1.0, description = 1.0, attributes = 1.0 }}
rrf_k = 60
weights = {{ lexical = 1.0, dense = 1.0 }}
"""


def write_pretrained(folder: Path, words: list[str]) -> Path:
    """A BERT folder with random weights and a WordPiece vocabulary of these words and all letters."""
    torch.manual_seed(3)
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokens = list(dict.fromkeys([*tokens, *words]))
    folder.mkdir(parents=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(tokens),
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "num_hidden_layers": LAYERS,
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    special = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, token in enumerate(tokens[:5])
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
            ],
            "special_tokens": {
                token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(tokens)},
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    shapes = {
        "embeddings.word_embeddings.weight": (len(tokens), WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value"):
            shapes |= {f"{at}.{name}.weight": (WIDTH, WIDTH), f"{at}.{name}.bias": (WIDTH,)}
        shapes |= {
            f"{at}.attention.output.dense.weight": (WIDTH, WIDTH),
            f"{at}.attention.output.dense.bias": (WIDTH,),
            f"{at}.intermediate.dense.weight": (INNER, WIDTH),
            f"{at}.intermediate.dense.bias": (INNER,),
            f"{at}.output.dense.weight": (WIDTH, INNER),
            f"{at}.output.dense.bias": (WIDTH,),
        }
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}.{name}.weight": (WIDTH,), f"{at}.{name}.bias": (WIDTH,)}
    weights = {
        name: torch.ones(shape) if name.endswith("LayerNorm.weight") else 0.3 * torch.randn(shape)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return folder


def write_workplace(folder: Path, *, products: int = 240, queries: int = 24) -> Recipe:
    """Data, pretrained model and recipe under one folder. Returns the recipe; the data is in `data`."""
    write_synthetic(folder / "data" / "shop", products=products, queries=queries, seed=2)
    words: dict[str, None] = {}
    for product in read_products(folder / "data" / "shop"):
        for word in f"{product.title} {product.brand} {' '.join(product.category)}".lower().split():
            if word.isalnum():
                words[word] = None
    pretrained = write_pretrained(folder / "pretrained", list(words)[:250])
    (folder / "recipe.toml").write_text(RECIPE.format(pretrained=pretrained))
    return load_recipe(folder / "recipe.toml")
