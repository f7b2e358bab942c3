"""How a bundle stores its cross-encoders: without what the encoder's file holds already, and compressed.

Models that start from the same pretrained one and freeze its word table hold the same megabytes. ONNX can
keep a tensor outside the model's file (`TensorProto.external_data`: a location, an offset, a length), so the
table is read from where it stands inside the encoder's file, which stays as it is.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import set_external_data

# Where readers of a bundle look for the bytes.
LOCATION = "encoder/model.onnx"
# A smaller tensor is not worth the reference to it.
_TENSOR_BYTES_MIN = 4096


def shared_words(cross: Path, encoder: Path) -> bytes:
    """A cross-encoder as ONNX, its large tensors that the encoder has too read from the encoder's file.

    Of the tables and weights of 4 KiB and more, those that equal one of the encoder in type, shape and every
    byte are left out. Where there are none, the file's bytes are returned as they are.
    Raises: FileNotFoundError.
    """
    file = encoder.read_bytes()
    theirs = {_identity(one) for one in _large_tensors(onnx.load_from_string(file))}
    model = onnx.load(cross)
    _constants_to_initializers(model, theirs)
    shared = [one for one in model.graph.initializer if _identity(one) in theirs]
    if not shared:
        return cross.read_bytes()
    for tensor in shared:
        set_external_data(tensor, LOCATION, offset=file.index(tensor.raw_data), length=len(tensor.raw_data))
        tensor.ClearField("raw_data")
    return bytes(model.SerializeToString(deterministic=True))


def compressed(model: bytes) -> bytes:
    """The model as a gzip file that depends on nothing else: no name, no time."""
    file = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=0) as out:
        out.write(model)
    return file.getvalue()


def _identity(tensor: TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    return tensor.data_type, tuple(tensor.dims), tensor.raw_data


def _large_tensors(model: ModelProto) -> Iterator[TensorProto]:
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _TENSOR_BYTES_MIN:
            yield tensor
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.attribute[0].t.raw_data) >= _TENSOR_BYTES_MIN:
            yield node.attribute[0].t


def _constants_to_initializers(
    model: ModelProto, identities: set[tuple[int, tuple[int, ...], bytes]]
) -> None:
    # Exporters write buffers as nodes, and the runtime reads only initializers from elsewhere.
    for node in [one for one in model.graph.node if one.op_type == "Constant"]:
        tensor = node.attribute[0].t
        if _identity(tensor) in identities:
            initializer = model.graph.initializer.add()
            initializer.CopyFrom(tensor)
            initializer.name = node.output[0]
            model.graph.node.remove(node)
