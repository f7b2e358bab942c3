"""The front door: `muster COMMAND`. The one file that may import any room, and it does so only when asked.

Exit codes: 0 done, 1 unexpected failure, 2 bad usage or input, 3 service not reachable or not available, 4
deadline passed; drills and benches: 0 held or measured, 10 deviated, 20 inconclusive. Results go to standard
output, everything else to standard error.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from muster import durations

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from muster.client import Client
    from muster.v1 import catalogue_pb2

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_DEADLINE = 4

_BATCH_BYTES_MAX = 2 * 1024 * 1024  # half of what a gRPC server accepts by default
_PATIENCE_MS = 60_000.0

Parameters = ParamSpec("Parameters")

app = typer.Typer(
    name="muster",
    help="Ranks products within the caller's deadline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
catalogue_app = typer.Typer(
    help="Changes the live catalogue, and looks after its file.", no_args_is_help=True
)
data_app = typer.Typer(help="Public and synthetic data sets.", no_args_is_help=True)
bundle_app = typer.Typer(help="Looks at a model bundle.", no_args_is_help=True)
drill_app = typer.Typer(help="Rehearses failures.", no_args_is_help=True)
bench_app = typer.Typer(help="Measures a bundle under load.", no_args_is_help=True)
app.add_typer(catalogue_app, name="catalogue")
app.add_typer(data_app, name="data")
app.add_typer(bundle_app, name="bundle")
app.add_typer(drill_app, name="drill")
app.add_typer(bench_app, name="bench")

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


# -- arguments ----------------------------------------------------------


def parse_duration_ms(text: str | float) -> float:
    """Milliseconds of a duration such as 50ms, 2s, 1.5s, 250us or 1m.

    Raises: typer.BadParameter unless it is a number above 0 with a unit.
    """
    if isinstance(text, int | float):
        return float(text)
    try:
        return durations.parse_duration_ms(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _duration(name: str, help: str) -> Any:
    return typer.Option(name, help=help, parser=parse_duration_ms, metavar="DURATION")


Target = Annotated[
    str,
    typer.Option(
        "--target",
        help="Replicas as host:port, joined by commas.",
        envvar="MUSTER_TARGET",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object or list on standard output.")]
DEFAULT_TARGET = "127.0.0.1:50051"


# -- failures ----------------------------------------------------------


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
    if isinstance(error, _MissingRoomError):
        return EXIT_FAILED, str(error)
    return None


def _explain_call(error: Any, client: Any) -> tuple[int, str]:
    where = f" (said {error.endpoint})" if error.endpoint else ""
    if isinstance(error, client.InvalidRequest):
        fields = "; ".join(f"{field}: {text}" for field, text in error.violations)
        return EXIT_USAGE, f"the request is refused: {fields or error}"
    if isinstance(error, client.NotFound | client.Conflict):
        return EXIT_USAGE, f"{error}{where}"
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


class _MissingRoomError(Exception):
    """A part of Muster that is not installed or not built."""


def _room(module: str, remedy: str) -> Any:
    """Imports a part of Muster when it is needed.

    Raises: _MissingRoomError where it, or something that it needs, is absent.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _MissingRoomError(f"{module} cannot be loaded ({error}). {remedy}") from error


# -- output ----------------------------------------------------------


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON values: field names as in the contract, whole numbers as numbers, enums in lower
    case.

    Absent optional fields and absent messages are left out; what is not finite becomes null.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = dict(sorted(value.items()))
        elif field.is_repeated:
            found[field.name] = [_plain_value(field, item) for item in value]
        else:
            found[field.name] = _plain_value(field, value)
    return found


def _plain_value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", field.enum_type.name).upper() + "_"
        return names[value].name.removeprefix(prefix).lower() if value in names else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in ("price", "stock", "score", "products", "sequence", "lag ms", "depth", "ms")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _progress(quiet: bool) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        console=_console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


# -- serving and asking ----------------------------------------------------------


@app.callback(invoke_without_command=True)
def front_door(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)
    ] = False,
) -> None:
    """Ranks products within the caller's deadline."""
    if version:
        print(f"muster {installed_version()}")
        raise typer.Exit(0)


def installed_version() -> str:
    """Version of the installed package; of the checkout where none is installed."""
    try:
        return metadata.version("muster")
    except metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


@app.command()
@reported
def serve(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file, TOML.")] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", help="host:port; port 0 takes a free one.")
    ] = None,
    replica: Annotated[str | None, typer.Option("--replica", help="Name of the replica.")] = None,
    bundle: Annotated[str | None, typer.Option("--bundle", help="Folder of the model bundle.")] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Folder of log and generations.")] = None,
    port_file: Annotated[
        str | None, typer.Option("--port-file", help="File that receives host:port once the replica listens.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, lease.ttl_ms=800."),
    ] = None,
) -> None:
    """Runs one replica until SIGTERM or SIGINT."""
    overrides: dict[str, str | None] = {
        "replica": replica,
        "listen": listen,
        "bundle": bundle,
        "data_dir": data_dir,
        "port_file": port_file,
    }
    for assignment in settings or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"write --set NAME=VALUE, not {assignment!r}")
        overrides[name] = value
    lifecycle = _room("server.lifecycle", "Build it with `make build`")
    raise typer.Exit(lifecycle.serve(config, overrides))


class _Priority(StrEnum):
    CRITICAL = "critical"
    DEFAULT = "default"
    SHEDDABLE = "sheddable"


def _connect(target: str) -> Client:
    from muster.client import Client

    return Client(target)


@app.command()
@reported
def search(
    query: Annotated[str, typer.Argument(help="What the shopper typed.")],
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, _duration("--deadline", "Time until the answer is useless.")] = 200.0,
    explain: Annotated[bool, typer.Option("--explain", help="Show the signals behind the order.")] = False,
    page_size: Annotated[int, typer.Option("--page-size", "-n", help="Results wanted, 1 to 100.")] = 10,
    offset: Annotated[int, typer.Option("--offset", help="Results to skip, 0 to 900.")] = 0,
    brand: Annotated[list[str] | None, typer.Option("--brand", help="Any of these brands.")] = None,
    category: Annotated[list[str] | None, typer.Option("--category", help="Any of these categories.")] = None,
    price_min: Annotated[float | None, typer.Option("--price-min", help="Lowest price, inclusive.")] = None,
    price_max: Annotated[float | None, typer.Option("--price-max", help="Highest price, inclusive.")] = None,
    in_stock: Annotated[bool, typer.Option("--in-stock", help="Nothing known to be out of stock.")] = False,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="Condition on an attribute.")
    ] = None,
    facet: Annotated[
        list[str] | None, typer.Option("--facet", help="Count brand, category or attributes.NAME.")
    ] = None,
    min_sequence: Annotated[int, typer.Option("--min-sequence", help="Wait for this sequence.")] = 0,
    priority: Annotated[
        _Priority | None, typer.Option("--priority", help="Worth of this request's quality under load.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Asks a running service for ranked products."""
    from muster.client import search_filter

    attributes: dict[str, list[str]] = {}
    for condition in attribute or ():
        name, equals, value = condition.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"write --attribute NAME=VALUE, not {condition!r}")
        attributes.setdefault(name.strip(), []).append(value.strip())
    conditions = search_filter(
        brands=brand or (),
        categories=category or (),
        price_min=price_min,
        price_max=price_max,
        in_stock=in_stock,
        attributes=attributes,
    )
    with _connect(target) as client:
        started = time.perf_counter()
        answer = client.search(
            query,
            deadline_ms=deadline,
            filter=conditions if conditions.ByteSize() else None,
            page_size=page_size,
            offset=offset,
            facets=facet or (),
            min_sequence=min_sequence,
            explain=explain,
            priority=priority.value if priority is not None else None,
        )
        took_ms = (time.perf_counter() - started) * 1000
    if as_json:
        print_json({"query": query, "deadline_ms": deadline, "took_ms": round(took_ms, 3), **plain(answer)})
        return
    _show_answer(plain(answer), offset, took_ms, deadline)


def _show_answer(answer: Mapping[str, Any], offset: int, took_ms: float, deadline_ms: float) -> None:
    from rich.text import Text

    console = _console()
    results = answer["results"]
    if results:
        table = _table("", "product", "title", "brand", "price", "stock", "score")
        for place, result in enumerate(results, start=offset + 1):
            stock = result.get("stock")
            table.add_row(
                str(place),
                Text(result["product_id"]),
                Text(result["title"]),
                Text(result["brand"] or "-"),
                _number(result.get("price")),
                "-" if stock is None else str(stock),
                _number(result["score"], 4),
            )
        console.print(table)
    else:
        console.print("no product matches")
    for place, result in enumerate(results, start=offset + 1):
        if result["signals"]:
            known = [f"{s['name']} {s['value']:.4g}" for s in result["signals"] if s.get("value") is not None]
            console.print(Text(f"{place}. {result['product_id']}: {', '.join(known)}"))
    for facet in answer["facets"]:
        counts = ", ".join(f"{count['value']} {count['count']}" for count in facet["counts"])
        console.print(Text(f"{facet['field']}: {counts or 'nothing'}"))
    console.print(Text(receipt_line(answer["receipt"], took_ms, deadline_ms)))


def receipt_line(receipt: Mapping[str, Any], took_ms: float, deadline_ms: float) -> str:
    """The receipt (as `plain` gives it) in one sentence."""
    text = (
        f"{took_ms:.1f} of {deadline_ms:g} ms; tier {receipt['tier']}, depth {receipt['depth']}, "
        f"{receipt['candidates']} candidates, worth {receipt['expected_ndcg']:.0%} of the best plan, "
        f"reason {receipt['reason']}; "
        f"{receipt['replica'] or 'a replica'} at sequence {receipt['applied_sequence']}"
    )
    if receipt["query_truncated"]:
        text += "; the query was cut"
    return text


@app.command()
@reported
def status(
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, _duration("--deadline", "Time for each replica to answer.")] = 1_000.0,
    as_json: Json = False,
) -> None:
    """Shows what every replica is doing."""
    with _connect(target) as client:
        found = client.status(deadline_ms=deadline)
    if as_json:
        print_json(
            [
                {
                    "endpoint": entry.endpoint,
                    "error": None if entry.error is None else str(entry.error),
                    "status": None if entry.status is None else plain(entry.status),
                }
                for entry in found
            ]
        )
    else:
        _show_status(found)
    if all(entry.status is None for entry in found):
        first = found[0].error
        assert first is not None
        raise first


def _show_status(found: Sequence[Any]) -> None:
    from rich.text import Text

    console = _console()
    table = _table("endpoint", "replica", "role", "reads", "epoch", "sequence", "lag ms", "products")
    plans: dict[str, Any] = {}
    indexes: dict[str, Any] = {}
    for entry in found:
        if entry.status is None:
            table.add_row(Text(entry.endpoint), "-", "no answer", *[""] * 5)
            continue
        state = plain(entry.status)
        behind = f"{state['applied_sequence']}/{state['head_sequence']}"
        table.add_row(
            Text(entry.endpoint),
            Text(state["replica"]),
            state["role"],
            "serving" if state["serving"] else "not serving",
            str(state["epoch"]),
            behind,
            str(state["staleness_ms"]),
            f"{state['products']:,}",
        )
        if index := state.get("dense_index"):
            indexes.setdefault(state["generation_id"], index)
        plans = plans or {plan["tier"] + str(plan["depth"]): plan for plan in state["plans"]}
    console.print(table)
    for sentence in folding_lines([plain(entry.status) for entry in found if entry.status is not None]):
        console.print(Text(sentence))
    _show_bundles(console, found)
    if plans:
        listed = _table("tier", "depth", "expected nDCG@10", "ms")
        for plan in plans.values():
            listed.add_row(
                plan["tier"], str(plan["depth"]), _number(plan["expected_ndcg"], 3), _number(plan["cost_ms"])
            )
        console.print(listed)
    if indexes:
        listed = _table("generation", "dense retrieval", "probes", "recall@100", "ms")
        for generation_id, index in indexes.items():
            listed.add_row(
                generation_id,
                index["kind"],
                str(index["probes"]),
                _number(index["recall_at_100"], 3),
                _number(index.get("median_ms"), 3),
            )
        console.print(listed)


def folding_lines(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the log is kept within its bounds, in sentences: what the primary says of it (as `plain` gives it),
    and what is wrong anywhere.
    """
    lines = []
    told = [state for state in states if state["role"] == "primary" and "folding" in state]
    for state in told[:1]:
        folding = state["folding"]
        first, last = folding["first_sequence"], state["head_sequence"]
        events = f"events {first:,} to {last:,}" if first else "no events"
        text = f"log: {events}, {folding['store_bytes'] / 2**20:,.1f} MiB with the snapshot"
        if "first_committed_unix_us" in folding:
            text += f", the oldest of {_moment(folding['first_committed_unix_us'])}"
        if "last_fold_unix_us" in folding:
            text += (
                f"; last folded {folding['last_fold_events']:,} events,"
                f" {_moment(folding['last_fold_unix_us'])}, in {folding['last_fold_ms']:,.0f} ms"
            )
        else:
            text += f"; nothing folded since {state['replica']} started"
        lines.append(text)
    for state in states:
        folding = state.get("folding", {})
        if folding.get("failures"):
            lines.append(
                f"{state['replica']} failed {folding['failures']:,} times in a row to look after the log:"
                f" {folding['problem']}"
            )
        elif folding.get("problem"):
            lines.append(f"{state['replica']}: {folding['problem']}")
    return lines


def _moment(unix_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_us / 1e6))


def _show_bundles(console: Any, found: Sequence[Any]) -> None:
    """Which bundles are held, and the last deploy, where there is more to tell than one bundle."""
    states = [plain(entry.status) for entry in found if entry.status is not None]
    held = _table("replica", "serves", "candidate", "before")
    for state in states:
        held.add_row(
            state["replica"],
            state["bundle_id"],
            state["candidate_bundle_id"] or "-",
            state["previous_bundle_id"] or "-",
        )
    if states:
        console.print(held)
    deploys = [state["deploy"] for state in states if "deploy" in state]
    if deploys:
        last = deploys[0]
        why = f": {last['detail']}" if last["detail"] else ""
        console.print(
            f"deploy {last['deploy_id']} from {last['previous_bundle_id']} to {last['bundle_id']}:"
            f" {last['phase'].replace('_', ' ')}{why}",
            markup=False,
        )


@app.command()
@reported
def transfer(
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, _duration("--deadline", "Time for another replica to take over.")] = 10_000.0,
    as_json: Json = False,
) -> None:
    """Has the primary give the lease to another replica: a planned takeover, without a failed request."""
    with _connect(target) as client:
        before = [entry.status for entry in client.status(deadline_ms=deadline) if entry.status is not None]
        asked = {status.replica for status in before if plain(status)["role"] == "primary"}
        started = time.perf_counter()
        answer = client.transfer_lease(deadline_ms=deadline)
        took_ms = (time.perf_counter() - started) * 1000
    moved = bool(answer.primary) and answer.primary not in asked
    if as_json:
        print_json({**plain(answer), "transferred": moved, "took_ms": round(took_ms, 1)})
    elif moved:
        print(f"{answer.primary} is the primary of epoch {answer.epoch}, after {took_ms:.0f} ms")
    if not moved:
        complain(
            "no other replica took the lease; `muster status` shows whether one serves and has caught up "
            "(and `lease.eligible` whether it may)"
        )
        raise typer.Exit(EXIT_UNAVAILABLE)


# -- catalogue ----------------------------------------------------------


@catalogue_app.command("load")
@reported
def catalogue_load(
    file: Annotated[
        Path, typer.Argument(help="Parquet, CSV, TSV, JSONL, a BEIR corpus, or a folder with one.")
    ],
    map: Annotated[
        str | None,
        typer.Option("--map", help="Column map: a built-in name or a TOML file. Default: by the columns."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1_000, help="Products in one write.")] = 250,
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, _duration("--deadline", "Time for each write.")] = 10_000.0,
    again: Annotated[
        bool, typer.Option("--again", help="Write everything anew, also what an earlier run wrote.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the file; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Loads a file of products into the catalogue. Interrupted, the same command goes on where it stopped.

    The whole file is checked before the first product is written.
    """
    from muster.products import load_map, product_file, read_products, rows_expected

    path = product_file(file)
    column_map = None if map is None else load_map(map)
    total = rows_expected(path)
    with _progress(as_json) as progress:
        task = progress.add_task("checking", total=total)
        count = 0
        for count, _ in enumerate(read_products(path, column_map), start=1):
            if count % 256 == 0:
                progress.update(task, completed=count)
    if check:
        if as_json:
            print_json({"file": str(path), "products": count, "written": 0})
        else:
            print(f"{path}: {count:,} products, no faults; nothing was written")
        return
    load_id = os.urandom(16).hex() if again else load_identity(path)
    written = duplicates = sequence = 0
    started = time.perf_counter()
    with _connect(target) as client, _progress(as_json) as progress:
        task = progress.add_task("loading", total=count)
        try:
            for events in load_batches(read_products(path, column_map), load_id, batch):
                answer = _apply_patiently(client, events, deadline)
                written += len(events) - answer.duplicates
                duplicates += answer.duplicates
                sequence = max(sequence, answer.sequence)
                progress.update(task, completed=written + duplicates)
        except Exception:
            complain(
                f"{written + duplicates:,} of {count:,} products are in the log; "
                "run the same command again to go on from there"
            )
            raise
    took_s = time.perf_counter() - started
    if as_json:
        print_json(
            {
                "file": str(path),
                "products": count,
                "written": written,
                "duplicates": duplicates,
                "sequence": sequence,
                "took_s": round(took_s, 3),
            }
        )
        return
    print(f"{written:,} of {count:,} products written in {took_s:.1f} s, up to sequence {sequence:,}")
    if duplicates:
        print(f"{duplicates:,} were in the log from an earlier run of this load; --again writes them anew")


def load_identity(path: Path) -> str:
    """What makes two runs the same load: the file's name, size and time of change."""
    facts = path.stat()
    return f"{path.name}:{facts.st_size}:{facts.st_mtime_ns}"


def load_batches(
    products: Iterable[catalogue_pb2.Product], load_id: str, batch: int
) -> Iterator[list[catalogue_pb2.Event]]:
    """Upserts with ids that depend on load and content alone, in batches that a server accepts."""
    from muster.client import content_event_id, upsert

    events: list[catalogue_pb2.Event] = []
    size = 0
    for product in products:
        raw = product.SerializeToString(deterministic=True)
        if events and (len(events) == batch or size + len(raw) > _BATCH_BYTES_MAX):
            yield events
            events, size = [], 0
        events.append(upsert(product, event_id=content_event_id("load", load_id, raw)))
        size += len(raw)
    if events:
        yield events


def _apply_patiently(client: Client, events: Sequence[catalogue_pb2.Event], deadline_ms: float) -> Any:
    """Sends a batch again while the service sheds load or an outcome is unknown; the ids make that safe."""
    from muster.client import DeadlineExceeded, Overloaded

    give_up_at = time.monotonic() + _PATIENCE_MS / 1000
    while True:
        try:
            return client.apply(events, deadline_ms=deadline_ms)
        except Overloaded as error:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(max(0.05, error.retry_after_ms / 1000))
        except DeadlineExceeded:
            if time.monotonic() > give_up_at:
                raise


def _pass_to_store(name: str, text: str) -> None:
    """Adds a command that looks after the catalogue's file, which the server's code does."""

    @catalogue_app.command(name, help=text, context_settings=_PASS_ON)
    @reported
    def run(context: typer.Context) -> None:
        module = _room("server.catalogue.commands", "Install what serving needs with `make build`")
        raise typer.Exit(module.main([name, *context.args]))


_pass_to_store("verify", "Looks through every row of the log for damage: [--store PATH] [--json].")
_pass_to_store("repair", "Puts damaged rows back where a copy proves them: --from BACKUP; --help lists all.")
_pass_to_store("export", "Writes a backup while replicas run: FILE [--until SEQUENCE] [--json].")
_pass_to_store(
    "restore", "Makes a catalogue from a backup: FILE --store PATH [--until SEQUENCE] [--replace]."
)


# -- data sets ----------------------------------------------------------


@data_app.command("get")
@reported
def data_get(
    name: Annotated[str, typer.Argument(help="esci or wands.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to fill. Default: data/NAME.")] = None,
    queries: Annotated[
        int,
        typer.Option("--queries", min=1, help="Queries of each split, with the products judged for them."),
    ] = 200,
    everything: Annotated[bool, typer.Option("--all", help="All queries and products.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before downloading.")] = False,
    as_json: Json = False,
) -> None:
    """Fetches a public data set from its own project, after showing its licence."""
    from muster.products.downloads import data_sets, fetch

    known = data_sets()
    if name not in known:
        raise typer.BadParameter(f"no data set is called {name!r}; there are: {', '.join(known)}")
    data_set = known[name]
    folder = out or Path("data") / name
    size = f"{data_set.bytes / 1e6:,.0f} MB" if data_set.bytes else "size not declared"
    print(f"{data_set.title}\n  from {data_set.homepage}\n  licence {data_set.licence}", file=sys.stderr)
    print(f"  cite {data_set.citation}", file=sys.stderr)
    for file in data_set.files:
        print(f"  {file.name}: SHA-256 {file.sha256 or 'not declared by the project'}", file=sys.stderr)
    if not yes:
        try:
            wanted = typer.confirm(f"Download it ({size}) into {folder}?", err=True)
        except typer.Abort:  # nobody is there to answer
            wanted = False
        if not wanted:
            complain("nothing was downloaded; --yes downloads without asking")
            raise typer.Exit(EXIT_USAGE)
    with _download_progress(as_json) as progress:
        tasks: dict[str, Any] = {}

        def show(file: str, received: int, expected: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=expected or None)
            progress.update(tasks[file], completed=received)

        fetch(data_set, folder, queries_max=None if everything else queries, progress=show)
    if as_json:
        print_json({"data_set": name, "folder": str(folder), "licence": data_set.licence})
    else:
        print(f"{folder}: products.parquet, queries.parquet, labels.parquet (licence {data_set.licence})")


def _download_progress(quiet: bool) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        console=_console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )


@data_app.command("synthetic")
@reported
def data_synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    products: Annotated[int, typer.Option("--products", min=1, help="Size of the catalogue.")] = 5_000,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Judged queries.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")] = 1,
    as_json: Json = False,
) -> None:
    """Writes a synthetic catalogue with queries whose relevance is known by construction."""
    from muster.products.synthetic import write_synthetic

    with _progress(as_json) as progress:
        task = progress.add_task("writing and judging", total=2 * products)
        try:
            write_synthetic(
                out,
                products=products,
                queries=queries,
                seed=seed,
                progress=lambda done: progress.update(task, completed=done),
            )
        except OSError as error:
            raise typer.BadParameter(f"{out} cannot be written ({error.strerror or error})") from error
    if as_json:
        print_json({"folder": str(out), "products": products, "queries": queries, "seed": seed})
    else:
        print(f"{out}: {products:,} products, {queries:,} judged queries")


# -- bundles ----------------------------------------------------------


@bundle_app.command("verify")
@reported
def bundle_verify(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    replay: Annotated[
        bool | None,
        typer.Option(
            "--replay/--no-replay",
            help="Run the golden requests on this machine. Default: where the ranking core is built.",
        ),
    ] = None,
    trusted: Annotated[
        list[str] | None,
        typer.Option("--trusted", metavar="KEY", help="Ask for a signature by one of these public keys."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Checks every file of a bundle against its manifest, what they say, and the signature."""
    from muster.bundle import check_signature, read_bundle

    bundle = read_bundle(folder)
    check_signature(bundle.manifest, trusted or (), allow_unsigned=not trusted)
    signature = bundle.manifest.signature
    differences: list[str] | None = None
    rankcore = None
    if replay is not False:
        try:
            rankcore = _room("rankcore", "Build it with `make build`")
        except _MissingRoomError:
            if replay:
                raise
    if rankcore is not None:
        engine = rankcore.Engine(str(folder), runtime_library=rankcore.runtime_library())
        try:
            differences = list(engine.verify_golden())
        finally:
            engine.close()
    if as_json:
        print_json(
            {
                "bundle": bundle.bundle_id,
                "files": len(bundle.manifest.files),
                "bytes": bundle.bytes,
                "signed_by": None if signature is None else signature.public_key,
                "golden": None if differences is None else {"differences": differences},
            }
        )
    else:
        print(
            f"{bundle.bundle_id}: {len(bundle.manifest.files)} files, {bundle.bytes:,} bytes, all as declared"
        )
        print("not signed" if signature is None else f"signed by {signature.public_key}")
        if differences == []:
            print("the golden requests reproduce on this machine")
    if differences:
        for difference in differences:
            complain(difference)
        raise typer.Exit(EXIT_USAGE)


@bundle_app.command("key")
@reported
def bundle_key(
    file: Annotated[Path, typer.Argument(help="File to write the private key into; must not exist.")],
    as_json: Json = False,
) -> None:
    """Draws a key to sign bundles with; prints the public key, for `release.trusted_keys`."""
    from muster.bundle import make_key

    key = make_key(file)
    if as_json:
        print_json({"file": str(file), "public_key": key.public_key})
    else:
        print(key.public_key)


@bundle_app.command("sign")
@reported
def bundle_sign(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    key: Annotated[Path, typer.Option("--key", help="Private key, from `muster bundle key`.")],
    as_json: Json = False,
) -> None:
    """Signs a bundle in place; its files and its identity stay as they are."""
    from muster.bundle import read_key, sign_bundle

    signing_key = read_key(key)
    manifest = sign_bundle(folder, signing_key)
    if as_json:
        print_json({"bundle": manifest.bundle_id, "public_key": signing_key.public_key})
    else:
        print(f"{manifest.bundle_id}: signed by {signing_key.public_key}")


@bundle_app.command("card")
@reported
def bundle_card(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    as_json: Json = False,
) -> None:
    """Prints the model card of a bundle."""
    from muster.bundle import read_bundle

    bundle = read_bundle(folder)
    if as_json:
        print_json(bundle.card())
        return
    text = (bundle.folder / "card.md").read_text(encoding="utf-8")
    if sys.stdout.isatty():
        from rich.markdown import Markdown

        _console().print(Markdown(text))
    else:
        print(text)


# -- deploys ----------------------------------------------------------


@app.command()
@reported
def deploy(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="Folder of the bundle, the same path on every machine."),
    ] = None,
    target: Target = DEFAULT_TARGET,
    shadow_share: Annotated[
        float, typer.Option("--shadow-share", min=0.0, max=1.0, help="Of the requests that are compared.")
    ] = 0.2,
    canary_share: Annotated[
        float, typer.Option("--canary-share", min=0.0, max=1.0, help="Of the requests that it serves first.")
    ] = 0.1,
    min_requests: Annotated[
        int, typer.Option("--min-requests", min=1, help="To be answered in each trial before it goes on.")
    ] = 200,
    agreement_min: Annotated[
        float, typer.Option("--agreement-min", min=0.0, max=1.0, help="Least agreement with the order now.")
    ] = 0.5,
    patience: Annotated[
        float, _duration("--patience", "Longest wait in one phase; then it is rolled back.")
    ] = 600_000.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Roll back the deploy under way.")] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Serve the bundle before the last deploy again, at once.")
    ] = False,
    unload: Annotated[
        bool, typer.Option("--unload", help="Let go of the bundle before the last deploy.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Moves every replica to another bundle: load, compare, serve a share, change over; or back by itself.

    Interrupted, the same command goes on where it stopped. Exit code 0: done, 10: rolled back.
    """
    from muster.deploy.command import Wish, run
    from muster.deploy.judge import Limits
    from muster.deploy.steps import Options

    if sum((bundle is not None, abort, roll_back, unload)) != 1:
        raise typer.BadParameter("give one of BUNDLE, --abort, --roll-back and --unload")
    wish = Wish(
        target=target,
        bundle=bundle,
        abort=abort,
        back=roll_back,
        unload=unload,
        dry_run=dry_run,
        options=Options(shadow_share=shadow_share, canary_share=canary_share),
        limits=Limits(min_requests=min_requests, agreement_min=agreement_min),
        patience_s=patience / 1000,
    )
    raise typer.Exit(run(wish, show=print_json if as_json else None))


# -- training, drills, benches, demo ----------------------------------------------------------


@app.command(context_settings=_PASS_ON)
@reported
def evaluate(context: typer.Context) -> None:
    """Measures nDCG@10 of a bundle: BUNDLE --data DIR [--split dev] [--json]; --help lists all."""
    module = _room("training.evaluate", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@app.command(context_settings=_PASS_ON)
@reported
def train(context: typer.Context) -> None:
    """Trains, measures and exports a bundle: --data DIR --out BUNDLE [--deadline 50ms]; --help lists all."""
    module = _room("training.train", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@app.command(context_settings=_PASS_ON)
@reported
def label(context: typer.Context) -> None:
    """Which pairs to judge next, and judging: suggest, ask or merge; --help lists all."""
    module = _room("training.label", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@drill_app.command("list")
@reported
def drill_list(as_json: Json = False) -> None:
    """Lists the drills and what each one claims."""
    book = _room("drills.book", "Run it from the project's folder")
    if as_json:
        print_json([drill.describe() for drill in book.DRILLS])
        return
    table = _table("drill", "injects", "must stay true")
    for drill in book.DRILLS:
        table.add_row(drill.name, drill.injection, drill.hypothesis)
    _console().print(table)


@drill_app.command("run", context_settings=_PASS_ON)
@reported
def drill_run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the drill; what follows goes to it.")],
) -> None:
    """Runs one drill: NAME [--runs N] [--json] ...; exit code 0 held, 10 deviated, 20 inconclusive."""
    if name in ("-h", "--help"):
        print(context.get_help())
        raise typer.Exit(0)
    book = _room("drills.book", "Run it from the project's folder")
    try:
        drill = book.find(name)
    except book.UnknownDrill as error:
        raise typer.BadParameter(str(error)) from error
    try:
        code = drill.run(list(context.args))
    except ImportError as error:
        raise _MissingRoomError(
            f"the drill cannot be loaded ({error}). Build it with `make build`"
        ) from error
    raise typer.Exit(code)


@bench_app.command("curve", context_settings=_PASS_ON)
@reported
def bench_curve(context: typer.Context) -> None:
    """Measures the quality served by deadline and load: [--seconds N] [--out FILE.png]; --help lists all."""
    module = _room("drills.curve", "Build it with `make build`")
    raise typer.Exit(module.main(list(context.args)))


@app.command()
@reported
def demo(as_json: Json = False) -> None:
    """Shows everything: a primary, two standbys, real queries at several deadlines, the primary killed."""
    module = _room("drills.demo", "Build it with `make build`")
    raise typer.Exit(module.main(as_json) or 0)


def main() -> None:
    """Entry point of the command `muster`."""
    try:
        app()
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
