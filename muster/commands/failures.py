"""How the commands end where they cannot do what they were asked: exit codes, and what to do next."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

import typer

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_DEADLINE = 4

Parameters = ParamSpec("Parameters")


def complain(message: str) -> None:
    """One or two lines on standard error."""
    print(f"muster: {message}", file=sys.stderr)


def reported(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Ends a command with its exit code and a message that says what to do, instead of a traceback."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            # The reader of our output left, as `| head` does; nothing is wrong.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
            raise typer.Exit(0) from None
        except Exception as error:
            found = _explain(error)
            if found is None:
                raise
            code, message = found
            complain(message)
            raise typer.Exit(code) from error

    return run


def _explain(error: Exception) -> tuple[int, str] | None:
    """Exit code and message of an expected failure; None for one that nobody expected."""
    # Only modules that are loaded already can have raised: nothing is imported for the sake of a message.
    loaded = sys.modules.get
    client = loaded("muster.client.errors")
    if client is not None and isinstance(error, client.MusterError):
        return _explain_call(error, client)
    products = loaded("muster.products.errors")
    if products is not None and isinstance(error, products.ProductError):
        return EXIT_USAGE, str(error)
    bundle = loaded("muster.bundle.errors")
    if bundle is not None and isinstance(error, bundle.BundleError):
        return EXIT_USAGE, f"the bundle is refused: {error}"
    deployer = loaded("muster.deploy.deployer")
    if deployer is not None and isinstance(error, deployer.DeployImpossible):
        return EXIT_USAGE, str(error)
    tokens = loaded("muster.tokens")
    if tokens is not None and isinstance(error, tokens.TokenError):
        return EXIT_USAGE, str(error)
    insight = loaded("muster.insight.errors")
    if insight is not None and isinstance(error, insight.InsightError):
        return EXIT_USAGE, str(error)
    audit = loaded("muster.audit")
    if audit is not None and isinstance(error, audit.AuditError):
        return EXIT_USAGE, str(error)
    experiments = loaded("muster.experiments.assignment")
    if experiments is not None and isinstance(error, experiments.ExperimentRefused):
        return EXIT_USAGE, str(error)
    if isinstance(error, MissingRoomError):
        return EXIT_FAILED, str(error)
    return None


def _explain_call(error: Any, client: Any) -> tuple[int, str]:
    where = f" (said {error.endpoint})" if error.endpoint else ""
    if isinstance(error, client.InvalidRequest):
        fields = "; ".join(f"{field}: {text}" for field, text in error.violations)
        return EXIT_USAGE, f"the request is refused: {fields or error}"
    if isinstance(error, client.NotFound | client.Conflict):
        return EXIT_USAGE, f"{error}{where}"
    if isinstance(error, client.NotAllowed):
        return (
            EXIT_USAGE,
            f"{error}{where}. Give a token with `muster --token-file FILE ...` or MUSTER_TOKEN_FILE, or a"
            " client certificate with --tls-cert and --tls-key (docs/security.md)",
        )
    if isinstance(error, client.Overloaded):
        return EXIT_UNAVAILABLE, f"the service sheds load: {error}. Try again, or give it a longer --deadline"
    if isinstance(error, client.DeadlineExceeded):
        return (
            EXIT_DEADLINE,
            f"{error}. Give it a longer --deadline; `muster status` shows whether replicas answer",
        )
    if isinstance(error, client.Unavailable):
        return (
            EXIT_UNAVAILABLE,
            f"no replica is available: {error}{where}\nIs the service running? Start it with "
            "`muster serve --config FILE`, or name its replicas with --target HOST:PORT,...",
        )
    return EXIT_FAILED, f"the service failed: {error}{where}"


class MissingRoomError(Exception):
    """A part of Muster that is not installed or not built."""


def room(module: str, remedy: str) -> Any:
    """Imports a part of Muster when it is needed.

    Raises: MissingRoomError where it, or something that it needs, is absent.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingRoomError(f"{module} cannot be loaded ({error}). {remedy}") from error
