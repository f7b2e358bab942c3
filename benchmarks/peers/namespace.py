"""A network namespace for a server that would listen on the machine's own addresses.

`python namespace.py COMMAND...` moves this process into a namespace with nothing but loopback, and becomes
the command. The harness reaches it through `connected`: a socket belongs to the namespace in which it was
made, so a thread that enters it for the moment of connecting can talk to it from outside for as long as it
likes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000  # linux/sched.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1  # linux/sockios.h, linux/if.h
NOT_PERMITTED = 77
"""Exit code where no namespace could be made."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def enter_new() -> None:
    """Moves this process into a new network namespace and brings its loopback up. Raises OSError."""
    if _libc().unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        asked = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(one, SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(one, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def connected(pid: int, address: str, *, timeout_s: float = 10.0) -> socket.socket:
    """A socket connected to "host:port" as the process `pid` sees it. Raises OSError.

    Only the calling thread changes its namespace, and it is back in its own before this returns.
    """
    host, _, port = address.rpartition(":")
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        _enter(other)
        try:
            made = socket.create_connection((host, int(port)), timeout=timeout_s)
        finally:
            _enter(own)
    finally:
        os.close(own)
        os.close(other)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _enter(descriptor: int) -> None:
    if _libc().setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(command: list[str]) -> None:
    """Becomes the command inside a namespace of its own."""
    try:
        enter_new()
    except OSError as error:
        print(f"a network namespace is not permitted here ({error.strerror})", file=sys.stderr)
        sys.exit(NOT_PERMITTED)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
