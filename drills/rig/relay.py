"""The relay's own process: `python -m drills.rig.relay`, started by `drills.rig.proxy.Proxy`.

Reads one command a line from standard input, JSON, and answers each with one line. It ends when its input
does, so it never outlives the drill.

A link is a listening address and where it leads. Bytes of each direction stand in a queue with the moment at
which they are due. What is cut off is held, not thrown away: a stream with a hole would be no TCP, which
sends again what a real network lost and delivers it, late, once the way is free again. So is the end of a
connection: behind a cut neither side learns that the other one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

TO = "to"
BACK = "back"
_CHUNK = 64 * 1024
_HELD_CHUNKS = 256
"""Chunks that wait in one direction of a connection; then its sender is not read from, as a full window
does."""


@dataclass
class Way:
    """How one direction of a link behaves. latency_ms, jitter_ms: each piece waits for the first plus up to
    the second, at random, and none overtakes another. bytes_per_s: 0 is without limit."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    bytes_per_s: float = 0.0
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.free.set()


@dataclass
class Link:
    """One address and where it leads: host:port, or the path of a socket."""

    upstream: str
    ways: dict[str, Way] = field(default_factory=lambda: {TO: Way(), BACK: Way()})
    refusing: bool = False
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    server: asyncio.Server | None = None


class Relay:
    """All links of one process."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self._random = random.Random(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Does one command; raises what went wrong."""
        what = command["do"]
        if what == "link":
            return {"address": await self._open(command["name"], command["upstream"])}
        link = self._links[command["name"]]
        if what == "shape":
            for direction in command["directions"]:
                way = link.ways[direction]
                way.latency_ms, way.jitter_ms = command["latency_ms"], command["jitter_ms"]
                way.bytes_per_s = command["bytes_per_s"]
        elif what == "cut":
            for direction in command["directions"]:
                link.ways[direction].free.clear()
        elif what == "reset":
            link.refusing = command["refusing"]
            return {"connections": self._reset(link)}
        elif what == "heal":
            link.refusing = False
            for way in link.ways.values():
                way.latency_ms = way.jitter_ms = way.bytes_per_s = 0.0
                way.free.set()
        else:
            raise ValueError(f"no command {what!r}")
        return {}

    async def _open(self, name: str, upstream: str) -> str:
        link = Link(upstream)

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._carry(link, reader, writer)
            finally:
                self._tasks.discard(task)

        link.server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self._links[name] = link
        host, port = link.server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def _carry(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link.writers.add(writer)
        opened = [writer]
        try:
            if link.refusing:
                _abort(writer)
                return
            # The first packet of a connection does not pass a cut either.
            await link.ways[TO].free.wait()
            try:
                far_reader, far_writer = await _connect(link.upstream)
            except OSError:
                _abort(writer)
                return
            link.writers.add(far_writer)
            opened.append(far_writer)
            for one in opened:
                _at_once(one)
            await asyncio.gather(
                self._pump(link.ways[TO], reader, far_writer),
                self._pump(link.ways[BACK], far_reader, writer),
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in opened:
                link.writers.discard(one)
                one.close()

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one direction to its end."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD_CHUNKS)

        async def read() -> None:
            due_s = sending_until_s = 0.0
            while True:
                try:
                    data = await reader.read(_CHUNK)
                except ConnectionError:
                    data = b""
                now_s = time.monotonic()
                sending_until_s = max(sending_until_s, now_s)
                if way.bytes_per_s > 0:
                    sending_until_s += len(data) / way.bytes_per_s
                delay_s = (way.latency_ms + self._random.random() * way.jitter_ms) / 1000.0
                due_s = max(due_s, sending_until_s + delay_s)
                await waiting.put((due_s, data))
                if not data:
                    return

        async def write() -> None:
            while True:
                due_s, data = await waiting.get()
                if (wait_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                await way.free.wait()
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                try:
                    writer.write(data)
                    await writer.drain()
                except ConnectionError:
                    # Its other direction ends by itself; what still comes here has nowhere to go.
                    writer.close()
                    return

        reading = asyncio.create_task(read())
        try:
            await write()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def close(self) -> None:
        """Ends every link and what it carries."""
        for link in self._links.values():
            if link.server is not None:
                link.server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reset(self, link: Link) -> int:
        writers = list(link.writers)
        for writer in writers:
            _abort(writer)
        return len(writers)


async def _connect(upstream: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if upstream.startswith("/"):
        return await asyncio.open_unix_connection(upstream)
    host, _, port = upstream.rpartition(":")
    return await asyncio.open_connection(host, int(port))


def _at_once(writer: asyncio.StreamWriter) -> None:
    """Small pieces leave without waiting for the answer to those before."""
    opened: socket.socket = writer.get_extra_info("socket")
    if opened.family != socket.AF_UNIX:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by a reset, as a crashed machine or a firewall does."""
    opened: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main() -> None:
    """Obeys standard input until it ends."""
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    relay = Relay()
    try:
        while line := await commands.readline():
            try:
                answer = await relay.obey(json.loads(line))
            except (OSError, KeyError, ValueError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
    finally:
        await relay.close()


if __name__ == "__main__":
    asyncio.run(main())
