"""Commands that the console starts: their output, their end, and one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from muster.console import drilling
from muster.console.jobs import Busy, Job, Jobs

DRILL = {"name": "latency", "control": "--latency-ms 60", "target": True}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.02)


def test_output_and_exit_code_are_kept_and_one_runs_at_a_time() -> None:
    async def play() -> Job:
        jobs = Jobs()
        first = await jobs.start("first", ["-c", "input_ = print('a'); import sys; sys.exit(10)"])
        with pytest.raises(Busy, match="first is under way"):
            await jobs.start("second", ["-c", "pass"])
        await until(lambda: not first.runs)
        return first

    job = asyncio.run(play())
    assert (list(job.lines), job.exit_code, job.told) == (["a"], 10, 1)
    assert job.since(0) == ["a"] and job.since(1) == []


def test_a_job_that_is_stopped_may_undo_what_it_did() -> None:
    code = (
        "import time\nprint('on', flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: print('undone')\n"
    )

    async def play() -> Job:
        jobs = Jobs()
        job = await jobs.start("long", ["-c", code])
        await until(lambda: job.told > 0)
        await jobs.stop()
        return job

    assert list(asyncio.run(play()).lines) == ["on", "undone"]


def test_a_drill_is_started_as_its_entry_in_the_book_allows() -> None:
    assert drilling.command(DRILL, control=True)[-3:] == ["latency", "--latency-ms", "60"]
    assert drilling.command(DRILL, target="a:1")[-2:] == ["--target", "a:1"]
    for wrong in ({"control": True, "target": "a:1"}, {"runs": 0}):
        with pytest.raises(ValueError):
            drilling.command(DRILL, **wrong)
    for entry in ({**DRILL, "target": False}, {**DRILL, "control": ""}):
        with pytest.raises(ValueError):
            drilling.command(entry, control=not entry["control"], target="" if entry["target"] else "a:1")


def test_the_book_is_found_by_name() -> None:
    assert "failover" in [drill["name"] for drill in drilling.book()]
