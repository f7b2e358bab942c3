from __future__ import annotations

import socket

from drills.rig.ports import free_ports


def test_addresses_are_free_and_differ() -> None:
    addresses = free_ports(5)
    assert len(set(addresses)) == 5
    for address in addresses:
        host, _, port = address.rpartition(":")
        with socket.create_server((host, int(port))):
            pass
