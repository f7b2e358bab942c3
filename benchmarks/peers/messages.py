"""Messages between the harness and the peers that speak gRPC, built at run time.

Two vocabularies: the small service that a team would write round a scorer (`peers.v1`), and the part of the
KServe v2 protocol that Triton speaks. Built rather than generated, because this file is read by interpreters
with very different versions of protobuf, and generated code is bound to one of them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

RERANK_METHOD = "/peers.v1.Reranker/Rerank"
TRITON_METHOD = "/inference.GRPCInferenceService/ModelInfer"
TRITON_MODEL = "reranker"

_FIELD = descriptor_pb2.FieldDescriptorProto
_STRING, _FLOAT, _INT64, _BYTES, _MESSAGE = (
    _FIELD.TYPE_STRING,
    _FIELD.TYPE_FLOAT,
    _FIELD.TYPE_INT64,
    _FIELD.TYPE_BYTES,
    _FIELD.TYPE_MESSAGE,
)
_MESSAGES: dict[str, dict[str, list[tuple[str, int, int, bool, str]]]] = {
    "peers.v1": {
        # name, number, type, repeated, message type
        "RerankRequest": [("query", 1, _STRING, False, ""), ("texts", 2, _STRING, True, "")],
        "RerankResponse": [("scores", 1, _FLOAT, True, "")],
    },
    "inference": {
        "InferTensor": [
            ("name", 1, _STRING, False, ""),
            ("datatype", 2, _STRING, False, ""),
            ("shape", 3, _INT64, True, ""),
        ],
        "ModelInferRequest": [
            ("model_name", 1, _STRING, False, ""),
            ("inputs", 5, _MESSAGE, True, ".inference.InferTensor"),
            ("raw_input_contents", 7, _BYTES, True, ""),
        ],
        "ModelInferResponse": [
            ("model_name", 1, _STRING, False, ""),
            ("raw_output_contents", 6, _BYTES, True, ""),
        ],
    },
}


def _built() -> dict[str, Any]:
    # A pool of its own: a client library of Triton may have registered the same names in the default one.
    pool = descriptor_pool.DescriptorPool()
    for package, messages in _MESSAGES.items():
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        for message, fields in messages.items():
            made = file.message_type.add(name=message)
            for name, number, kind, repeated, of in fields:
                label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
                made.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)
        pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return {
        message: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message}"))
        for package, messages in _MESSAGES.items()
        for message in messages
    }


_CLASSES = _built()
RerankRequest: Any = _CLASSES["RerankRequest"]
RerankResponse: Any = _CLASSES["RerankResponse"]
InferTensor: Any = _CLASSES["InferTensor"]
ModelInferRequest: Any = _CLASSES["ModelInferRequest"]
ModelInferResponse: Any = _CLASSES["ModelInferResponse"]
for _class in _CLASSES.values():
    # So that a message can be pickled: its class is found here, by its name.
    _class.__module__ = __name__


def rerank_request(query: str, texts: Sequence[str]) -> bytes:
    """A request of the small service, serialised."""
    return bytes(RerankRequest(query=query, texts=list(texts)).SerializeToString())


def rerank_scores(body: bytes) -> list[float]:
    """Scores of its answer, in the order of the texts."""
    return list(RerankResponse.FromString(body).scores)


def triton_request(query: str, texts: Sequence[str]) -> bytes:
    """The same for Triton: tensors `query` [1, 1] and `texts` [1, n] of bytes, each with its length before
    it."""

    def packed(values: Sequence[str]) -> bytes:
        encoded = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)

    inputs = [
        InferTensor(name="query", datatype="BYTES", shape=[1, 1]),
        InferTensor(name="texts", datatype="BYTES", shape=[1, len(texts)]),
    ]
    request = ModelInferRequest(
        model_name=TRITON_MODEL, inputs=inputs, raw_input_contents=[packed([query]), packed(texts)]
    )
    return bytes(request.SerializeToString())


def triton_scores(body: bytes) -> list[float]:
    """Scores of Triton's answer: one tensor of float32."""
    raw = ModelInferResponse.FromString(body).raw_output_contents[0]
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
