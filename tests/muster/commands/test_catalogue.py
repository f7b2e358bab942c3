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
