"""`muster catalogue load`."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq

from muster.commands.catalogue import load_batches
from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import catalogue_pb2
from tests.muster.commands.command_line import muster
from tests.muster.conftest import Start
from tests.muster.scripted_replica import fails

CODE = grpc.StatusCode


def write_catalogue(path: Path, count: int) -> None:
    products = SyntheticCatalogue(count).products()
    rows = [{"product_id": product.product_id, "title": product.title} for product in products]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_a_load_is_batched_and_repeating_it_changes_nothing(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    write_catalogue(tmp_path / "products.parquet", 25)
    load = ("catalogue", "load", str(tmp_path), "--target", replica.endpoint, "--batch", "10", "--json")
    first = json.loads(muster(*load).stdout)
    assert (first["products"], first["written"], first["duplicates"]) == (25, 25, 0)
    assert [len(request.events) for request in replica.requests] == [10, 10, 5]
    second = json.loads(muster(*load).stdout)
    assert (second["written"], second["duplicates"]) == (0, 25)
    assert len(replica.log) == 25
    third = json.loads(muster(*load, "--again").stdout)
    assert (third["written"], len(replica.log)) == (25, 50)


def test_an_interrupted_load_goes_on_where_it_stopped(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    write_catalogue(tmp_path / "products.parquet", 25)
    load = ("catalogue", "load", str(tmp_path), "--target", replica.endpoint, "--batch", "10")
    replica.script = [lambda request, context: None, fails(CODE.INTERNAL)]
    broken = muster(*load)
    assert broken.exit_code == 1
    assert "10 of 25 products are in the log" in broken.stderr
    done = json.loads(muster(*load, "--json").stdout)
    assert (done["written"], done["duplicates"], len(replica.log)) == (15, 10, 25)


def test_a_load_waits_when_load_is_shed(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    write_catalogue(tmp_path / "products.parquet", 5)
    replica.script = [fails(CODE.RESOURCE_EXHAUSTED)]
    done = muster("catalogue", "load", str(tmp_path), "--target", replica.endpoint)
    assert done.exit_code == 0 and "5 of 5 products written" in done.stdout


def test_a_fault_in_the_file_is_found_before_anything_is_written(
    start_replicas: Start, tmp_path: Path
) -> None:
    replica = start_replicas(1)[0]
    path = tmp_path / "products.csv"
    path.write_text("product_id,title,price\n" + "".join(f"P{i},tea,1\n" for i in range(30)) + "Q,tea,NaN\n")
    done = muster("catalogue", "load", str(path), "--target", replica.endpoint, "--batch", "10")
    assert done.exit_code == 2
    assert "row 31, column 'price'" in done.stderr and "NaN" in done.stderr
    assert replica.calls == [] and replica.log == {}


def test_a_check_writes_nothing(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "products.parquet", 5)
    done = muster("catalogue", "load", str(tmp_path), "--check", "--target", "127.0.0.1:1")
    assert done.exit_code == 0 and "5 products, no faults" in done.stdout


def test_batches_stay_below_the_size_that_a_server_accepts() -> None:
    big = [catalogue_pb2.Product(product_id=str(i), title="t", description="x" * 900_000) for i in range(5)]
    sizes = [len(events) for events in load_batches(big, "load", 100)]
    assert sizes == [2, 2, 1]


def write_garbled(path: Path, good: int) -> None:
    rows = [f"P{number},a plain kettle number {number},{20 + number % 7}" for number in range(good)]
    bad = ["M1,tea,-1", "M2,,1", "S1,<b>tea</b>,3", "S2,kettle,9e12"]
    path.write_text("\n".join(["product_id,title,price", *rows, *bad]) + "\n", encoding="utf-8")


def test_rows_left_out_are_told_and_all_others_are_written(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    replica.products = {}
    path, rejects = tmp_path / "products.csv", tmp_path / "rejects.jsonl"
    write_garbled(path, 60)
    load = ("catalogue", "load", str(path), "--target", replica.endpoint, "--json", "--rejects", str(rejects))
    done = muster(*load, "--leave-out", "suspicious")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (told["written"], told["malformed"], told["held_back"]) == (60, 2, 2)
    assert told["check"]["fitness"] == "warned"
    lines = [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert [(line["kind"], line["row"]) for line in lines] == [
        ("malformed", 61),
        ("malformed", 62),
        ("suspicious", 63),
        ("suspicious", 64),
    ]
    assert len(replica.log) == 60
    less = json.loads(muster(*load, "--leave-out", "malformed").stdout)
    assert (less["written"], less["malformed"], less["held_back"], len(replica.log)) == (2, 2, 0, 62)


def test_a_file_that_is_refused_as_a_whole_writes_nothing(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    replica.products = {}
    path = tmp_path / "products.csv"
    write_garbled(path, 6)
    done = muster("catalogue", "load", str(path), "--target", replica.endpoint, "--leave-out", "suspicious")
    assert done.exit_code == 10
    assert "refused as a whole" in done.stderr and replica.log == {}


def test_a_file_is_compared_with_what_is_served(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    path = tmp_path / "products.csv"
    write_garbled(path, 200)
    served = [
        catalogue_pb2.Product(product_id=f"P{number}", title=f"a plain kettle number {number}", price=20.0)
        for number in range(150)
    ]
    check = ("catalogue", "check", str(path), "--target", replica.endpoint, "--json")
    replica.products = {product.product_id: product for product in served}
    assert json.loads(muster(*check).stdout)["fitness"] == "fit"
    for product in served:
        product.price = 0.2
    told = json.loads(muster(*check).stdout)
    assert [one["name"] for one in told["measures"] if one["fitness"] == "refused"] == [
        "suspicious",
        "price_scale",
        "price_factor",
    ]
    # Too few products are no reference.
    replica.products = {product.product_id: product for product in served[:9]}
    assert json.loads(muster(*check).stdout)["fitness"] == "fit"


def test_check_ends_with_ten_where_it_refuses(tmp_path: Path) -> None:
    path, rows = tmp_path / "products.csv", tmp_path / "rows.jsonl"
    for good, code, fitness in ((400, 0, "fit"), (60, 0, "warned"), (6, 10, "refused")):
        write_garbled(path, good)
        done = muster("catalogue", "check", str(path), "--json", "--rows", str(rows))
        told = json.loads(done.stdout)
        assert (done.exit_code, told["fitness"], told["malformed"]) == (code, fitness, 2), told
    assert len(rows.read_text(encoding="utf-8").splitlines()) >= 3
    shown = muster("catalogue", "check", str(path), "--against", str(path))
    assert shown.exit_code == 10
    assert "script_shift" in shown.stdout and "row 7, column 'price'" in shown.stdout


def test_limits_of_ones_own_decide(tmp_path: Path) -> None:
    path, limits = tmp_path / "products.csv", tmp_path / "limits.toml"
    write_garbled(path, 60)
    limits.write_text("[limits]\nmalformed = [0, 0.001]\n", encoding="utf-8")
    assert muster("catalogue", "check", str(path), "--limits", str(limits)).exit_code == 10
    limits.write_text("[limits]\nmalformed = 1\n", encoding="utf-8")
    done = muster("catalogue", "check", str(path), "--limits", str(limits))
    assert done.exit_code == 2 and "must be [warn, refuse]" in done.stderr
