"""Every layout becomes the same tables; what is wrong is told with file, row and column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.products import ProductFileError
from training.data.adapters import read_set
from training.data.tables import DataTables
from training.recipe import DataSet, RecipeError

PRODUCTS = "product_id,title\nP,red kettle\nR,blue kettle\n"
QUERIES = "query_id,query,split\n1,kettle,train\n2,blue,dev\n"
LABELS = "query_id,product_id,gain\n1,P,1\n1,R,0\n2,R,1\n"
SCALE = {"1.0": 1.0, "0.0": 0.0}


def read(root: Path, files: Mapping[str, str], **settings: Any) -> DataTables:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    settings = {"folder": "", "role": "judged"} | settings
    return read_set(DataSet(name="shop", licence="none", source="made up", **settings), root)


def fault(root: Path, files: Mapping[str, str], **settings: Any) -> ProductFileError:
    with pytest.raises(ProductFileError) as caught:
        read(root, files, **settings)
    assert caught.value.action
    return caught.value


def gains(found: DataTables) -> dict[str, tuple[str, str, dict[str, float]]]:
    return {one.query_id: (one.text, one.split, dict(one.gains)) for one in found.queries}


TABLES = {"products.csv": PRODUCTS, "queries.csv": QUERIES, "labels.csv": LABELS}


def test_tables_are_read_from_text_files(tmp_path: Path) -> None:
    found = read(tmp_path, TABLES, targets=SCALE)
    assert gains(found) == {"1": ("kettle", "train", {"P": 1.0, "R": 0.0}), "2": ("blue", "dev", {"R": 1.0})}
    assert set(found.products) == {"P", "R"}
    assert [path.name for path in found.files] == ["queries.csv", "products.csv", "labels.csv"]


def test_tables_may_mix_kinds_of_files_and_leave_the_split_out(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"query_id": [1, 1], "product_id": ["P", "R"], "label": ["Exact", "Irrelevant"]}),
        tmp_path / "labels.parquet",
    )
    files = {"products.csv": PRODUCTS, "queries.jsonl": '{"query_id": 1, "query": "kettle"}\n'}
    assert gains(read(tmp_path, files)) == {"1": ("kettle", "", {"P": 1.0, "R": 0.0})}


def test_wands_is_read_as_published_and_joined_to_a_list_of_queries_with_splits(tmp_path: Path) -> None:
    header = (
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features"
    )
    files = {
        "product.csv": f"{header}\trating_count\taverage_rating\treview_count\n"
        "7\toak bed\tBeds\tFurniture / Beds\tsolid\tcolor : oak\t15.0\t4.5\t3.0\n",
        "query.csv": "query_id\tquery\tquery_class\n0\twooden bed\tBeds\n",
        "label.csv": "id\tquery_id\tproduct_id\tlabel\n0\t0\t7\tPartial\n",
    }
    assert gains(read(tmp_path, files)) == {"0": ("wooden bed", "", {"7": 0.5})}
    pq.write_table(
        pa.table({"query_id": [0], "query": ["wooden bed"], "split": ["dev"]}), tmp_path / "queries.parquet"
    )
    assert gains(read(tmp_path, files)) == {"0": ("wooden bed", "dev", {"7": 0.5})}


def test_query_lists_alone_are_read_for_the_role_queries(tmp_path: Path) -> None:
    found = read(tmp_path, {"queries.csv": QUERIES}, role="queries")
    assert gains(found) == {"1": ("kettle", "train", {}), "2": ("blue", "dev", {})}


def test_ratings_that_hold_the_query_need_no_list_of_queries(tmp_path: Path) -> None:
    ratings = "query,docid,rating\nkettle,P,3\nkettle,R,0\nblue,R,2\n"
    found = read(tmp_path, {"products.csv": PRODUCTS, "ratings.csv": ratings})
    assert sorted(value for value in gains(found).values()) == [
        ("blue", "", {"R": 2.0}),
        ("kettle", "", {"P": 3.0, "R": 0.0}),
    ]


def test_beir_is_read_with_a_file_a_split(tmp_path: Path) -> None:
    corpus = (
        '{"_id": "P", "title": "red kettle", "text": "boils"}\n{"_id": "R", "title": "", "text": "mug"}\n'
    )
    queries = "".join(json.dumps({"_id": str(at), "text": f"query {at}"}) + "\n" for at in range(4))
    files = {
        "corpus.jsonl": corpus,
        "queries.jsonl": queries,
        "qrels/train.tsv": "query-id\tcorpus-id\tscore\n0\tP\t1\n",
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\n2\tR\t1\n9\tR\t1\n",
    }
    found = read(tmp_path, files)
    assert gains(found) == {"0": ("query 0", "train", {"P": 1.0}), "2": ("query 2", "test", {"R": 1.0})}
    assert found.unknown_queries == 1
    files["qrels/test.tsv"] = "query-id\tcorpus-id\tscore\n0\tR\t1\n"
    error = fault(tmp_path, files)
    assert "splits" in error.problem and error.row == 1


def test_a_beir_set_with_one_qrels_file_is_left_to_be_split(tmp_path: Path) -> None:
    files = {
        "corpus.jsonl": '{"_id": "P", "title": "red kettle", "text": "boils"}\n',
        "queries.jsonl": '{"_id": "0", "text": "kettle"}\n',
        "qrels.tsv": "query-id\tcorpus-id\tscore\n0\tP\t1\n",
    }
    assert gains(read(tmp_path, files)) == {"0": ("kettle", "", {"P": 1.0})}


def test_esci_is_read_as_published_one_locale_at_a_time(tmp_path: Path) -> None:
    locales = ["us", "es"]
    products = {
        "product_id": ["P", "P"],
        "product_title": ["red kettle", "hervidor rojo"],
        "product_description": [None, None],
        "product_bullet_point": ["one\ntwo", None],
        "product_brand": ["Acme", None],
        "product_color": ["Red", None],
        "product_locale": locales,
    }
    examples = {
        "query_id": [0, 1],
        "query": ["kettle", "hervidor"],
        "product_id": ["P", "P"],
        "product_locale": locales,
        "esci_label": ["E", "S"],
        "split": ["train", "test"],
    }
    pq.write_table(pa.table(products), tmp_path / "shopping_queries_dataset_products.parquet")
    pq.write_table(pa.table(examples), tmp_path / "shopping_queries_dataset_examples.parquet")
    found = read(tmp_path, {}, where={"product_locale": "us"})
    assert gains(found) == {"0": ("kettle", "train", {"P": 1.0})}
    product = found.products["P"]
    assert (product.title, product.brand, list(product.bullets)) == ("red kettle", "Acme", ["one", "two"])
    assert dict(product.attributes) == {"color": "Red"}


PAIRS = (
    "sentence1,sentence2,label,split\n"
    "你好吗,你还好吗,1,train\n"
    "你好吗,今天几号,0,train\n"
    "你好吗,天气如何,,unlabeled\n"
    "你好吗,你还好吗,1,dev\n"
)


def test_sentence_pairs_become_queries_products_and_labels(tmp_path: Path) -> None:
    found = read(tmp_path, {"pairs.csv": PAIRS}, folder="pairs.csv", targets=SCALE)
    titles = {key: product.title for key, product in found.products.items()}
    assert sorted(titles.values()) == sorted(["你还好吗", "今天几号", "天气如何"])
    told = {
        (one.split, one.text): {titles[key]: gain for key, gain in one.gains.items()} for one in found.queries
    }
    assert told == {
        ("train", "你好吗"): {"你还好吗": 1.0, "今天几号": 0.0},
        ("dev", "你好吗"): {"你还好吗": 1.0},
    }


def test_the_role_queries_leaves_only_the_texts(tmp_path: Path) -> None:
    found = read(tmp_path, {"pairs.csv": PAIRS}, folder="pairs.csv", role="queries")
    assert not found.products
    assert sorted((one.split, one.text, dict(one.gains)) for one in found.queries) == sorted(
        [
            ("train", "你好吗", {}),
            ("dev", "你好吗", {}),
            ("dev", "你还好吗", {}),
            ("train", "今天几号", {}),
            ("train", "天气如何", {}),
        ]
    )
    rows = {"c.csv": "text,label,split\na,x,train\nb,,unlabeled\nc,y,dev\n"}
    found = read(tmp_path, rows, folder="c.csv", role="queries", format="classes")
    assert [(one.split, one.text) for one in found.queries] == [("train", "a"), ("train", "b"), ("dev", "c")]
    assert not found.classes


def test_pairs_and_classes_may_come_as_one_file_a_split(tmp_path: Path) -> None:
    files = {
        "train_few_all.json": '{"sentence": "好", "label": "Positive"}\n'
        '{"sentence": "差", "label": "Negative"}\n',
        "dev.jsonl": '{"sentence": "很好", "label": "Positive"}\n',
        "test_public.json": '{"sentence": "很差", "label": "Negative"}\n',
        "unlabeled.json": '{"sentence": "也许"}\n',
    }
    found = read(tmp_path, files, role="classes")
    assert [(one.split, one.text, one.label) for one in found.classes] == [
        ("train", "好", "Positive"),
        ("train", "差", "Negative"),
        ("dev", "很好", "Positive"),
        ("test", "很差", "Negative"),
        ("unlabelled", "也许", None),
    ]


def test_a_class_text_that_is_said_twice_is_kept_once(tmp_path: Path) -> None:
    rows = "text,category\ncard lost,lost\ncard lost,lost\nnew card,new\n"
    found = read(tmp_path, {"c.csv": rows}, folder="c.csv", role="classes")
    assert [one.text for one in found.classes] == ["card lost", "new card"]
    assert found.repeated_labels == 1


def test_behaviour_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    rows = '{"user_id": 4, "items": [20, 4, 24]}\n{"user_id": 5, "items": [4]}\n'
    found = read(tmp_path, {"s.jsonl": rows}, folder="s.jsonl", role="behaviour")
    assert [(one.user_id, one.items) for one in found.sequences] == [("4", ("20", "4", "24")), ("5", ("4",))]


def test_a_condition_holds_in_every_file(tmp_path: Path) -> None:
    files = {
        "products.csv": "product_id,title,locale\nP,red kettle,us\nP,hervidor,es\n",
        "queries.csv": "query_id,query,locale\n1,kettle,us\n2,hervidor,es\n",
        "labels.csv": "query_id,product_id,gain,locale\n1,P,1,us\n2,P,1,es\n",
    }
    assert gains(read(tmp_path, files, where={"locale": "es"})) == {"2": ("hervidor", "", {"P": 1.0})}
    error = fault(tmp_path, files, where={"country": "es"})
    assert error.column == "country" and error.path.name == "queries.csv"


def test_a_label_said_twice_counts_once(tmp_path: Path) -> None:
    found = read(tmp_path, TABLES | {"labels.csv": LABELS + "1,P,1\n"})
    assert found.repeated_labels == 1
    assert gains(found)["1"][2] == {"P": 1.0, "R": 0.0}


@pytest.mark.parametrize(
    ("changed", "file", "row", "column", "words"),
    [
        ({"labels.csv": LABELS + "1,P,0\n"}, "labels.csv", 4, "gain", "contradicts the label 1 in row 1"),
        (
            {"labels.csv": LABELS + "2,P,2\n"},
            "labels.csv",
            4,
            "gain",
            "outside the scale of data.shop.targets",
        ),
        ({"labels.csv": LABELS + "2,P,-1\n"}, "labels.csv", 4, "gain", "not a gain"),
        ({"labels.csv": "query_id,product_id\n1,P\n"}, "labels.csv", 1, None, "no known label"),
        ({"labels.csv": "query_id,gain\n1,1\n"}, "labels.csv", None, "product_id", "no column 'product_id'"),
        ({"labels.csv": "query_id,product_id,gain\n8,P,1\n"}, "labels.csv", None, None, "no label belongs"),
        ({"labels.csv": "query_id,product_id,gain\n1,X,1\n"}, "labels.csv", None, "product_id", "'X'"),
        (
            {"labels.csv": "query_id,product_id,gain,split\n1,P,1,dev\n"},
            "labels.csv",
            1,
            "split",
            "its query 1 in train",
        ),
        ({"queries.csv": "query_id,split\n1,train\n"}, "queries.csv", None, "query", "no such column"),
        ({"queries.csv": QUERIES + "1,mug,train\n"}, "queries.csv", 3, "query", "two texts"),
        ({"queries.csv": QUERIES + "1,kettle,dev\n"}, "queries.csv", 3, None, "splits train and dev"),
        ({"queries.csv": QUERIES + "3, ,train\n"}, "queries.csv", 3, "query", "no text"),
        ({"queries.csv": QUERIES + "3,mug,later\n"}, "queries.csv", 3, "split", "'later' is not a split"),
        ({"products.csv": "product_id,title\nP,\n"}, "products.csv", 1, "title", "title is empty"),
    ],
)
def test_a_fault_is_told_with_file_row_and_column(
    tmp_path: Path, changed: dict[str, str], file: str, row: int | None, column: str | None, words: str
) -> None:
    error = fault(tmp_path, TABLES | changed, targets=SCALE)
    assert (error.path.name, error.row, error.column) == (file, row, column)
    assert words in error.problem


@pytest.mark.parametrize(
    ("role", "content", "row", "column", "words"),
    [
        ("judged", PAIRS + "a,b,2,train\n", 5, "label", "'2' does not say"),
        ("judged", PAIRS + "你好吗,你还好吗,0,dev\n", 5, "label", "contradicts"),
        ("judged", PAIRS + "a,,1,train\n", 5, "sentence2", "empty"),
        ("judged", PAIRS + "a,b,,dev\n", 5, "label", "does not say"),
        ("judged", "sentence1,label\na,1\n", None, "sentence2", "no such column"),
        ("classes", "text,label,split\na,x,train\na,y,train\n", 2, "label", "contradicts the label 'x'"),
        ("classes", "text,label,split\na,,dev\n", 1, "label", "no label"),
        ("classes", "label,split\nx,dev\n", None, "sentence", "no column 'sentence' or 'text'"),
        ("behaviour", "user_id,items\n1,4 5\n1,6\n", 2, "user_id", "already in row 1"),
        ("behaviour", "user_id,items\n1,\n", 1, "items", "no list"),
    ],
)
def test_a_fault_of_a_single_file_is_told_alike(
    tmp_path: Path, role: str, content: str, row: int | None, column: str, words: str
) -> None:
    error = fault(tmp_path, {"one.csv": content}, folder="one.csv", role=role)
    assert (error.row, error.column) == (row, column)
    assert words in error.problem


def test_a_class_outside_the_declared_ones_is_refused(tmp_path: Path) -> None:
    rows = {"c.csv": "text,label\na,good\nb,bad\nc,so-so\n"}
    error = fault(tmp_path, rows, folder="c.csv", role="classes", classes=["good", "bad"])
    assert (error.row, error.column) == (3, "label")


def test_absent_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.shop\.folder.*nowhere does not exist.*--data"):
        read(tmp_path, {}, folder="nowhere")
    assert "holds none of labels.parquet" in fault(tmp_path, {"queries.csv": QUERIES}).problem
    assert "holds none of train.*" in fault(tmp_path, {}, role="classes").problem
    (tmp_path / "labels.csv").write_text(LABELS)
    assert "holds none of" in fault(tmp_path, {}).problem
