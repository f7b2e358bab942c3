"""Write the seeds of rankcore/fuzz from real files: the committed bundle, its golden queries and products.

Usage: python scripts/fuzz_seeds.py [OUT]      (default: rankcore/fuzz/seeds)

A seed is the smallest real file of its format, or a shortened one; together they stay below 200 KiB. The
generation that the target of that name damages is built by the target itself, so its seeds are only
instructions.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from google.protobuf import json_format
from google.protobuf.message import Message

from muster.v1 import catalogue_pb2, feedback_pb2, ranking_pb2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BUNDLE = ROOT / "models" / "muster-base"
SEED_BYTES_MAX = 200 * 1024
# 2027-01-15: what the target takes for now.
_FUZZ_NOW_S = 1_800_000_000

Seed = tuple[str, str, bytes]


def cases() -> list[tuple[str, catalogue_pb2.Product]]:
    """Queries and products of the bundle's golden requests."""
    golden: dict[str, Any] = json.loads((BUNDLE / "golden.json").read_text(encoding="utf-8"))
    return [
        (case["query"], json_format.ParseDict(case["product"], catalogue_pb2.Product()))
        for case in golden["cases"]
    ]


def requests() -> Iterator[Seed]:
    """Searches and re-rankings with every field set in one of them."""
    queries = [query for query, _ in cases()]
    yield "search", "plain", _bytes(ranking_pb2.SearchRequest(query=queries[0]))
    yield (
        "search",
        "filtered",
        _bytes(
            ranking_pb2.SearchRequest(
                query="red shoes black",
                filter=ranking_pb2.Filter(
                    brands=["acme", "Möbel"],
                    categories=["home"],
                    price_min=0.5,
                    price_max=50.0,
                    in_stock=True,
                    attributes=[ranking_pb2.AttributeFilter(name="colour", values=["black"])],
                ),
                page_size=20,
                offset=10,
                facets=["brand", "category", "attributes.colour"],
                min_sequence=3,
                explain=True,
            )
        ),
    )
    yield "search", "chinese", _bytes(ranking_pb2.SearchRequest(query="苹果手机壳", page_size=100))
    yield "rerank", "few", _bytes(ranking_pb2.RerankRequest(query=queries[1], product_ids=["p1", "q2", "p9"]))
    many = [f"p{number}" for number in range(60)]
    yield (
        "rerank",
        "many",
        _bytes(ranking_pb2.RerankRequest(query="usb cable", product_ids=many, page_size=5, explain=True)),
    )


def recommendations() -> Iterator[Seed]:
    """Requests for recommendations, one with every field set, and a section of five items."""
    history = [
        ranking_pb2.HistoryItem(product_id="p1", kind=feedback_pb2.FEEDBACK_KIND_BUY, occurred_unix_us=5),
        ranking_pb2.HistoryItem(product_id="q2", occurred_unix_us=3),
        ranking_pb2.HistoryItem(product_id="nobody"),
    ]
    yield "recommend", "plain", _bytes(ranking_pb2.RecommendRequest(history=history[:1]))
    yield (
        "recommend",
        "full",
        _bytes(
            ranking_pb2.RecommendRequest(
                shopper_id="ada",
                session_id="visit",
                history=history,
                filter=ranking_pb2.Filter(price_min=0.5, in_stock=True),
                page_size=20,
                explain=True,
                priority=ranking_pb2.PRIORITY_SHEDDABLE,
                diversity=0.5,
                repeats=True,
            )
        ),
    )
    source = {"weight": 0.5, "recency": 1.0, "doubt": 0.5, "width": 0, "positions": 0}
    described = {
        "schema_version": 1,
        "items": 5,
        "repeats": False,
        "history_max": 3,
        "candidates": 0,
        "sources": [
            {"name": "next", "kind": "table", **source, "entries": 4},
            {"name": "popularity", "kind": "popularity", **source, "entries": 0},
        ],
    }
    text = json.dumps(described).encode()
    table = struct.pack("<6I4I4f", 0, 1, 2, 3, 3, 4, 1, 2, 3, 0, 1.0, 2.0, 0.5, 1.5)
    yield "recommend_section", "small", struct.pack("<H", len(text)) + text + table


def changes() -> Iterator[Seed]:
    """Batches for a writer, and single events as the log gives them back."""
    batch = catalogue_pb2.ApplyRequest()
    for number, (_, product) in enumerate(cases()[:3]):
        batch.events.add(event_id=f"event-{number}").upsert.CopyFrom(product)
    patched = batch.events.add(event_id="patch")
    patched.patch.product_id = "p1"
    patched.patch.price = 9.5
    patched.patch.stock = 0
    batch.events.add(event_id="delete").delete.product_id = "p2"
    yield "apply", "batch", _bytes(batch)
    for number, event in enumerate(batch.events):
        if number not in (1, 2):
            yield "apply", f"one-{number}", _bytes(catalogue_pb2.ApplyRequest(events=[event]))
            sequenced = catalogue_pb2.SequencedEvent(
                sequence=100 + number, epoch=2, committed_unix_us=1_700_000_000_000_000, event=event
            )
            yield "events", f"sequenced-{number}", _bytes(sequenced)


def bundle() -> Iterator[Seed]:
    """The bundle's files."""
    for name in ("manifest", "text", "lexical", "plans"):
        yield "bundle_json", name, (BUNDLE / f"{name}.json").read_bytes()
    golden = json.loads((BUNDLE / "golden.json").read_text(encoding="utf-8"))
    golden["cases"] = golden["cases"][:2]
    yield "bundle_json", "golden", json.dumps(golden).encode()
    generation = {
        "schema_version": 2,
        "generation_id": "gen-00000000000000000007-1",
        "bundle_id": json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))["bundle_id"],
        "sequence": 7,
        "epoch": 1,
        "products": 7,
        "dimension": 384,
        "token_dimension": 64,
        "dense_index": {"kind": "scan", "probes": 0, "recall_at_100": 1.0},
        "files": {},
    }
    yield "bundle_json", "generation", json.dumps(generation).encode()
    header, *trees = (BUNDLE / "ranker" / "late.txt").read_text(encoding="utf-8").split("\nTree=")
    for kept in (1, 9):
        # Late trees are small; their numbers must begin at 0.
        numbered = [f"\nTree={at}\n{tree.split(chr(10), 1)[1]}" for at, tree in enumerate(trees[-kept:])]
        yield "forest", f"trees-{kept}", (header + "".join(numbered)).encode()
    small = (ROOT / "rankcore/engine/tests/fixtures/lambdarank_zero_missing.txt").read_text(encoding="utf-8")
    head, *trees = small.split("\nTree=")
    yield (
        "forest",
        "zero-missing",
        (head + "".join(f"\nTree={tree}" for tree in trees[:1]) + "\nend of trees\n").encode(),
    )
    yield "gzip", "text", gzip.compress((BUNDLE / "plans.json").read_bytes(), mtime=0)
    yield "gzip", "zeros", gzip.compress(bytes(1 << 20), mtime=0)
    yield "tokeniser", "wordpiece", tokeniser(200)
    yield "tokeniser", "few-words", tokeniser(12)


def models() -> Iterator[Seed]:
    """The smallest networks there are: those of the tests' tiny bundle. Needs what training needs."""
    from tests.fixtures.tiny_bundle import build

    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "tiny")
        for model in sorted((Path(folder) / "tiny").glob("*/model.onnx")):
            yield "onnx", model.parent.name, model.read_bytes()


def tokeniser(words: int) -> bytes:
    """The bundle's tokeniser with the first `words` of its vocabulary."""
    content: dict[str, Any] = json.loads((BUNDLE / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = content["model"]["vocab"]
    content["model"]["vocab"] = {word: number for word, number in vocabulary.items() if number < words}
    return json.dumps(content, ensure_ascii=False).encode()


def texts() -> Iterator[Seed]:
    """Text of products, a line for each field."""
    lines = [
        "\n".join([product.title, product.brand, *product.category, *product.bullets, product.description])
        for _, product in cases()
    ]
    yield "text", "products", "\n".join(dict.fromkeys(lines)).encode()
    yield (
        "text",
        "scripts",
        "Café-Möbel 2.4GHz\nÜnal\n苹果手机壳iPhone15Pro\nコーヒー・人々\n무선 이어폰\n𠮷野家\u200d".encode(),
    )


def generation_file(kind: str, element_bytes: int, count: int, payload: bytes) -> bytes:
    """A file of a generation; its layout is stated in rankcore/engine/src/generation/files.rs."""
    header = struct.pack("<8s16sIIQ24x", b"MUSTERG1", kind.encode(), 1, element_bytes, count)
    return header + payload


def files() -> Iterator[Seed]:
    """Single files of a generation, and damage to a whole one."""
    titles = [product.title.encode() for _, product in cases()[:4]]
    ends = [0]
    for title in titles:
        ends.append(ends[-1] + len(title))
    text = generation_file("products", 1, ends[-1], b"".join(titles))
    index = generation_file("products", 8, len(ends), struct.pack(f"<{len(ends)}Q", *ends))
    yield "generation_files", "text", struct.pack("<H", len(text)) + text + index
    rows = [[2, 1, 11, 12, 13, 14], [0, 0], [1, 0, 99]]
    flat = [number for row in rows for number in row]
    words = generation_file("words", 4, len(flat), struct.pack(f"<{len(flat)}I", *flat))
    offsets = generation_file("words", 8, 4, struct.pack("<4Q", 0, 6, 8, 11))
    yield "generation_files", "words", struct.pack("<H", len(words)) + words + offsets
    numbers = generation_file("columns", 8, 3, struct.pack("<3d", 1.5, float("nan"), -0.0))
    yield "generation_files", "columns", struct.pack("<H", len(numbers)) + numbers
    # Number of the file, what to do, offset, number of bytes, bytes: see `Folder::damage`.
    yield "generation", "whole", b""
    for what in range(6):
        records = b"".join(
            struct.pack("<BBHB", number, what, 4 * number, 4) + struct.pack("<I", number)
            for number in (what, 9 + what)
        )
        yield "generation", f"damage-{what}", records
    beyond = struct.pack("<I", 1_000_000)
    for number in range(40):
        # One element that lies beyond what it points into, in each file in turn.
        yield "generation", f"beyond-{number:02}", struct.pack("<BBHB", number, 3, 0, 4) + beyond


def vectors() -> Iterator[Seed]:
    """Values of a model's output: dimension, tokens of the query, then float32."""
    unit = [((7 * at) % 13 - 6) / 20 for at in range(16 * 4)]
    yield "vectors", "unit", bytes((3, 2)) + struct.pack("<64f", *unit)
    odd = [float("nan"), float("inf"), -float("inf"), 1e-45, 3.4e38, -0.0, 1.0, -1.0]
    yield "vectors", "odd", bytes((0, 1)) + struct.pack("<8f", *odd)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(path: str, **fields: str) -> bytes:
    """The head of a call, every field a literal (RFC 7541, section 6.2.2). `fields`: `_` stands for `-`."""
    head = {":method": "POST", ":scheme": "http", ":path": path, "content-type": "application/grpc"}
    head.update({name.replace("_", "-"): value for name, value in fields.items()})
    return b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in field) for field in head.items()
    )


def front() -> Iterator[Seed]:
    """What clients say to the front: whole connections, and messages with their metadata."""
    data, headers, priority, reset, settings, ping, window, continuation = 0, 1, 2, 3, 4, 6, 8, 9
    ended, whole = 1, 4
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings, 0, 0, struct.pack(">HI", 4, 1 << 20))
    search = header_block("/muster.v1.RankingService/Search", grpc_timeout="50m", grpc_encoding="gzip")
    message = _bytes(ranking_pb2.SearchRequest(query="red shoes"))
    framed = struct.pack(">BI", 0, len(message)) + message
    yield "http2", "search", hello + frame(headers, whole, 1, search) + frame(data, ended, 1, framed)
    other = header_block("/muster.v1.CatalogueService/Get", trace_bin="AAEC/w")
    yield (
        "http2",
        "passed",
        hello
        + frame(settings, 1, 0)
        + frame(headers, whole | ended, 1, other)
        + frame(headers, 0, 3, other[:20])
        + frame(continuation, whole, 3, other[20:])
        + frame(data, 0, 3, framed[:3])
        + frame(reset, 0, 3, struct.pack(">I", 8)),
    )
    yield (
        "http2",
        "control",
        hello
        + frame(ping, 0, 0, b"12345678")
        + frame(window, 0, 0, struct.pack(">I", 1 << 20))
        + frame(priority, 0, 5, struct.pack(">IB", 3, 16))
        + frame(200, 0, 0, b"unknown")
        + frame(7, 0, 0, struct.pack(">II", 0, 0)),
    )
    # Encoding, limit and size of the parts, then the values of three metadata, a line each, then the message.
    packed = gzip.compress(message, mtime=0)
    for name, start, metadata, content in (
        ("plain", (0, 40, 7), "50m\n1700000000000000\ncritical", framed),
        ("gzip", (2, 40, 255), "2S\n-9223372036854775808\nlow", struct.pack(">BI", 1, len(packed)) + packed),
        ("huge", (1, 3, 1), "99999999H\nsoon\n", struct.pack(">BI", 0, 2**32 - 1) + b"short"),
    ):
        yield "grpc", name, bytes(start) + metadata.encode() + b"\n" + content


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def identity() -> Iterator[Seed]:
    """Tokens and certificates of a fixed key, the set that holds it, and lists of what is revoked."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    jwk = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "fuzz", "x": x}
    yield "key_set", "ed25519", json.dumps({"keys": [jwk]}).encode()
    secret = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
    shared = {"kty": "oct", "alg": "HS256", "kid": "shared", "k": secret}
    yield "key_set", "two", json.dumps({"keys": [{**jwk, "kid": "other"}, shared]}).encode()
    claims = {"sub": "ui", "aud": "muster", "scope": "read", "exp": _FUZZ_NOW_S + 600}
    more = {"iat": _FUZZ_NOW_S, "nbf": _FUZZ_NOW_S, "iss": "us", "jti": "1", "scope": "read write"}
    head = {"kid": "fuzz"}
    yield "token", "plain", jwt.encode(claims, key, "EdDSA", headers=head).encode()
    yield "token", "full", jwt.encode({**claims, **more}, key, "EdDSA", headers=head).encode()
    yield "token", "late", jwt.encode({**claims, "exp": 1}, key, "EdDSA", headers=head).encode()
    yield "token", "none", jwt.encode(claims, "", "none", headers=head).encode()
    yield "revoked", "each", b"# gone\ntoken 1\nsubject ui\ncertificate " + b"ab" * 32 + b"\n"
    yield "revoked", "colons", b"certificate " + b":".join([b"AB"] * 32) + b"\r\n\n"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fuzz")])
    names = [x509.DNSName("loader.shop.example"), x509.UniformResourceIdentifier("spiffe://shop/loader")]
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2051))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    yield "certificate", "names", built.sign(key, None).public_bytes(serialization.Encoding.DER)


def main(arguments: list[str]) -> int:
    """Write every seed; exit 1 where they are too large together."""
    out = Path(arguments[0]) if arguments else ROOT / "rankcore" / "fuzz" / "seeds"
    total = 0
    groups = (requests, recommendations, changes, bundle, models, texts, files, vectors, front, identity)
    for group in groups:
        for target, name, content in group():
            folder = out / target
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            total += len(content)
    print(f"{total} bytes of seeds in {out}")
    return int(total > SEED_BYTES_MAX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
