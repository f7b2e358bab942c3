"""A profile's stacks are read as perf prints them, joined, and drawn to scale."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

import pytest

from benchmarks.profile import LEFT, WIDTH, Times, flame, frame, owner, samples, shares, table, tree

PERF = """\
python 17/19
\t          1af670 rankcore_engine::rerank::late::maxsim::h9f5ad0a4204f9bfc+0x1c (/x/_native.abi3.so)
\t          2af671 <rankcore_engine::request::Job as schedule::Task>::step+0x89 (/x/_native.abi3.so)
\t           7f369 [unknown] (/x/libonnxruntime.so.1.32.0)
\t           7f370 [unknown] (/x/libonnxruntime.so.1.32.0)
\t           44cb0 start_thread+0x2 (/usr/lib/libc.so.6)

python 17/20
\t           44cb1 start_thread+0x4 (/usr/lib/libc.so.6)

"""
STEP = "rankcore_engine::request::Job::step"
MAXSIM = "rankcore_engine::rerank::late::maxsim"


def test_stacks_are_read_from_the_outermost_function_with_neighbours_of_one_name_merged() -> None:
    assert list(samples(PERF.splitlines())) == [
        ("start_thread", "[libonnxruntime.so.1.32.0]", STEP, MAXSIM),
        ("start_thread",),
    ]
    assert list(samples([])) == []


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("core::ops::FnOnce<(A, B<C>)>::call_once+0x1", "core::ops::FnOnce::call_once"),
        ("faiss::search(long, float const*)+0x20", "faiss::search"),
        ("[unknown]", "[libc.so]"),
        ("_PyEval_EvalFrameDefault+0xa", "_PyEval_EvalFrameDefault"),
    ],
)
def test_names_lose_what_nobody_reads(symbol: str, expected: str) -> None:
    assert frame(symbol, "libc.so") == expected


def test_equal_beginnings_are_joined_and_every_sample_is_counted_once() -> None:
    root = tree(Counter({("a", "b"): 3, ("a", "c"): 1, ("d",): 4}))
    assert root.count == 8
    assert root.children["a"].count == 4
    assert root.children["a"].children["b"].count == 3


def test_the_picture_is_to_scale_and_names_whose_code_it_is() -> None:
    stacks = Counter({("main", STEP): 3, ("main", "faiss::search"): 1})
    picture = ElementTree.fromstring(flame(stacks, "a <title>"))
    boxes = {
        group.findtext("{*}title"): float(group.find("{*}rect").attrib["width"])  # type: ignore[union-attr]
        for group in picture.findall("{*}g")
    }
    whole = WIDTH - 2 * LEFT
    assert boxes == {
        "main: 100.0 %": whole,
        f"{STEP}: 75.0 %": pytest.approx(0.75 * whole),
        "faiss::search: 25.0 %": pytest.approx(0.25 * whole),
    }
    assert shares(stacks) == {"ranking core": 0.75, "FAISS, BLAS": 0.25}
    assert owner("clone3")[0] == "system, other"


def test_what_is_in_no_stage_is_told_apart_from_what_is_outside_the_core() -> None:
    stages = {"queue_us": 20.0, "encode_us": 2_980.0, "retrieve_us": 400.0, "order_us": 10.0}
    times = Times(
        "hybrid",
        100,
        waited_us=4_400.0,
        least_waited_us=3_800.0,
        total_us=3_500.0,
        stages_us=stages,
        processor_us=3_900.0,
    )
    assert (times.between_us, times.outside_us, times.overhead_us) == (90.0, 900.0, 410.0)
    assert table([times]).splitlines()[-1].endswith("| 90 | 3,500 | 900 | 4,400 | 3,800 | 410 | 3,900 |")
