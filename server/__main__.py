"""``python -m server --config FILE``: runs one replica, as ``muster serve`` does."""

from __future__ import annotations

import argparse
import sys

from server.lifecycle import EXIT_REFUSED, serve


def main(arguments: list[str] | None = None) -> int:
    """Parse flags and run a replica; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m server", description="Runs one replica of Muster.")
    parser.add_argument("--config", help="settings file, TOML")
    parser.add_argument("--replica", help="name of the replica")
    parser.add_argument("--listen", help="host:port; port 0 takes a free one")
    parser.add_argument("--bundle", help="folder of the model bundle")
    parser.add_argument("--data-dir", help="folder of the log and the generations")
    parser.add_argument("--port-file", help="file that receives host:port once the replica listens")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, for example lease.ttl_ms=800",
    )
    flags = parser.parse_args(arguments)
    overrides = {
        "replica": flags.replica,
        "listen": flags.listen,
        "bundle": flags.bundle,
        "data_dir": flags.data_dir,
        "port_file": flags.port_file,
    }
    for assignment in flags.set:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            print(f"python -m server: --set takes NAME=VALUE, not {assignment!r}", file=sys.stderr)
            return EXIT_REFUSED
        overrides[name] = value
    return serve(flags.config, overrides)


if __name__ == "__main__":
    sys.exit(main())
