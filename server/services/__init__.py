"""The gRPC services. Each is a class whose methods take what the wire brings and return what it takes.

``unary`` and ``stream`` wrap a method into a handler: they count it, translate what it raises through the
table of ``server.errors``, and leave the bytes alone unless they are given codecs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from server import errors, logs
from server.metrics import Call

_M = TypeVar("_M", bound=Message)

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]


def parse(kind: type[_M], request: bytes) -> _M:
    """The message that the bytes are. Raises: InvalidFields."""
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise errors.InvalidFields([("", f"the bytes are not a {kind.DESCRIPTOR.name}")]) from error


def serialize(message: Message) -> bytes:
    """The bytes of a message."""
    return message.SerializeToString()


def unary(
    function: Callable[[Any, grpc.ServicerContext], Any],
    call: Call,
    *,
    deserializer: Deserializer | None = None,
    serializer: Serializer | None = None,
) -> grpc.RpcMethodHandler:
    """Handler of a call with one request and one response. Without codecs both are bytes."""

    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        started = call.start()
        code = grpc.StatusCode.OK
        metadata = context.invocation_metadata()
        with logs.answering(metadata) as request_id:
            try:
                return function(request, context)
            except BaseException as error:
                # A panic of the native module is not an Exception; without this the call would never end.
                status = errors.status_of(error)
                code = status.code
                context.abort_with_status(status)
                raise AssertionError("abort returned") from error
            finally:
                call.finish(started, code, request_id=request_id, metadata=metadata)

    return grpc.unary_unary_rpc_method_handler(handle, deserializer, serializer)


def stream(
    function: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
    call: Call,
    *,
    deserializer: Deserializer | None = None,
    serializer: Serializer | None = None,
) -> grpc.RpcMethodHandler:
    """Handler of a call with one request and a stream of responses."""

    def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        started = call.start()
        code = grpc.StatusCode.OK
        try:
            yield from function(request, context)
        except GeneratorExit:
            code = grpc.StatusCode.CANCELLED
            raise
        except BaseException as error:
            status = errors.status_of(error)
            code = status.code
            context.abort_with_status(status)
        finally:
            metadata = context.invocation_metadata()
            call.finish(started, code, request_id=logs.request_id_of(metadata), metadata=metadata)

    return grpc.unary_stream_rpc_method_handler(handle, deserializer, serializer)
