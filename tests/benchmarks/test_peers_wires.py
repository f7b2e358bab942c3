"""Requests are what each protocol says, and answers are read however they come in."""

from __future__ import annotations

import asyncio
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks.peers import namespace
from benchmarks.peers.environment import Environment
from benchmarks.peers.http_wire import HttpAnswer, HttpPool, http_post, parse
from benchmarks.peers.messages import (
    ModelInferRequest,
    ModelInferResponse,
    RerankRequest,
    RerankResponse,
    rerank_request,
    rerank_scores,
    triton_request,
    triton_scores,
)
from benchmarks.peers.student import synthetic_recipe
from benchmarks.peers.workload import Asked, Workload, cut, measured_queries
from drills.rig.shop import Query

ROOT = Path(__file__).parents[2]


def test_the_small_service_carries_query_texts_and_scores() -> None:
    read = RerankRequest.FromString(rerank_request("kettle", ["red kettle", "mug"]))
    assert (read.query, list(read.texts)) == ("kettle", ["red kettle", "mug"])
    assert rerank_scores(RerankResponse(scores=[1.5, -2.0]).SerializeToString()) == [1.5, -2.0]
    # Ray hands messages from one process to another this way.
    assert pickle.loads(pickle.dumps(read)) == read


def test_triton_gets_tensors_of_bytes_and_gives_floats() -> None:
    read = ModelInferRequest.FromString(triton_request("größe", ["a", ""]))
    assert [(one.name, list(one.shape)) for one in read.inputs] == [("query", [1, 1]), ("texts", [1, 2])]
    query = "größe".encode()
    assert read.raw_input_contents[0] == struct.pack("<I", len(query)) + query
    assert read.raw_input_contents[1] == struct.pack("<I", 1) + b"a" + struct.pack("<I", 0)
    answer = ModelInferResponse(raw_output_contents=[struct.pack("<2f", 0.5, -1.0)])
    assert triton_scores(answer.SerializeToString()) == [0.5, -1.0]


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (WHOLE, HttpAnswer("OK", b"{}")),
        (CHUNKED, HttpAnswer("OK", b"abcde")),
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", HttpAnswer("RESOURCE_EXHAUSTED")),
        (b"HTTP/1.1 504 x\r\nContent-Length: 0\r\n\r\n", HttpAnswer("DEADLINE_EXCEEDED")),
        (b"HTTP/1.1 418 x\r\nContent-Length: 1\r\n\r\nx", HttpAnswer("HTTP_418", b"x")),
    ],
)
def test_an_answer_is_read_only_once_it_is_whole(raw: bytes, expected: HttpAnswer) -> None:
    assert parse(raw) == expected
    assert all(parse(raw[:end]) is None for end in range(len(raw)))


def test_what_is_no_http_is_refused() -> None:
    with pytest.raises(ValueError, match="not an HTTP answer"):
        parse(b"SSH-2.0\r\n\r\n")


def test_a_caller_gives_up_at_its_deadline_and_the_connection_goes() -> None:
    seen: list[bytes] = []
    ended: list[object] = []

    async def run() -> tuple[HttpAnswer, HttpAnswer]:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                if len(seen) > 1:
                    writer.write(WHOLE)
                await reader.read()
            except ConnectionError:
                pass
            finally:
                writer.close()
                ended.append(asyncio.current_task())

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pool = HttpPool(f"127.0.0.1:{port}")
        await pool.open()
        loop = asyncio.get_running_loop()
        request = http_post("/rerank", "here", b"{}")
        first = await pool.post(request, loop.time() + 0.05)
        second = await pool.post(request, loop.time() + 30.0)
        pool.close()
        server.close()
        while len(ended) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        return first, second

    first, second = asyncio.run(run())
    assert first.status == "DEADLINE_EXCEEDED"
    # On a new connection, for the old one may still bring the late answer.
    assert second == HttpAnswer("OK", b"{}")
    assert seen[0].startswith(b"POST /rerank HTTP/1.1\r\nHost: here\r\n") and len(seen) == 2


@pytest.mark.privileged
def test_a_server_in_a_namespace_is_reached_from_outside_and_by_nobody_else() -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 45671)); print('up', flush=True);"
        "c, _ = s.accept(); c.sendall(b'hello')"
    )
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "peers" / "namespace.py"), sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        if not process.stdout.readline():
            assert process.wait(10) == namespace.NOT_PERMITTED
            assert b"not permitted here" in process.stderr.read()
            pytest.skip("network namespaces are not permitted here")
        own = Path("/proc/thread-self/ns/net").readlink()
        with namespace.connected(process.pid, "127.0.0.1:45671") as one:
            one.settimeout(10.0)
            assert one.recv(5) == b"hello"
        assert Path("/proc/thread-self/ns/net").readlink() == own
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_an_environment_is_made_again_when_its_requirements_change(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing\n")
    environment = Environment(tmp_path / "peer", requirements, shares_torch=False)
    told: list[str] = []
    environment.make(told.append)
    assert environment.ready() and len(told) == 1
    environment.make(told.append)
    assert len(told) == 1
    assert environment.versions(["no-such-distribution"]) == {}
    requirements.write_text("# something else\n")
    assert not environment.ready()


def test_a_text_is_cut_where_the_model_stops_reading() -> None:
    from tokenizers import models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"red": 0, "kettle": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert cut(tokenizer, "red  kettle blue", 2) == "red  kettle"
    assert cut(tokenizer, "red kettle", 5) == "red kettle"


def test_queries_that_no_model_saw_come_alone_where_there_are_such() -> None:
    judged = {"p": 1.0}
    seen, unseen, empty = (
        Query("seen", "shop", judged),
        Query("unseen", "shop", judged, held_back=True),
        Query("no label", "shop", held_back=True),
    )
    assert measured_queries([seen, unseen, empty], 5) == [unseen]
    assert measured_queries([seen, empty], 5) == [seen]


def test_a_workload_is_read_as_it_was_written(tmp_path: Path) -> None:
    asked = Asked("q", ("p", "r"), ("a", "b"), {"r": 1.0})
    workload = Workload("shop", 10, True, (asked,))
    workload.save(tmp_path / "workload.json")
    assert Workload.load(tmp_path / "workload.json") == workload
    assert asked.ndcg([1, 0]) == 1.0 and 0.0 < asked.ndcg([0, 1]) < 1.0


def test_without_real_sets_the_recipe_names_the_synthetic_one(tmp_path: Path) -> None:
    from training.recipe import load_recipe

    text = (ROOT / "benchmarks" / "peers" / "student.toml").read_text()
    path = tmp_path / "recipe.toml"
    path.write_text(synthetic_recipe(text))
    recipe = load_recipe(path)
    assert [one.name for one in recipe.data] == ["shop"]
    assert recipe.plans.admit == ["cross_small"] and recipe.cross_small is not None
    assert recipe.cross_small.score == "head" and not recipe.asks_teachers()
