"""A cache of the Remote Execution API on loopback.  Stands for bazel-remote and its like.

Holds blobs and action results in memory and speaks gRPC as Pants' client expects; the messages are
the part of build/bazel/remote/execution/v2 and google/bytestream that a cache needs.  What a result
says is its client's business: it is kept as the bytes it came in.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.support.protobuf import message_types

_MESSAGES = {
    "Digest": ("hash=1 string", "size_bytes=2 int64"),
    "Status": ("code=1 int32",),
    "SemVer": ("major=1 int32",),
    "Updates": ("update_enabled=1 bool",),
    "CacheCapabilities": (
        "digest_functions=1 *int32",
        "updates=2 Updates",
        "max_batch_total_size_bytes=4 int64",
    ),
    "ServerCapabilities": ("cache=1 CacheCapabilities", "low=4 SemVer", "high=5 SemVer"),
    "Empty": (),
    "FindMissing": ("instance=1 string", "digests=2 *Digest"),
    "Missing": ("digests=2 *Digest",),
    "Blob": ("digest=1 Digest", "data=2 bytes"),
    "BatchUpdate": ("instance=1 string", "blobs=2 *Blob"),
    "Updated": ("digest=1 Digest", "status=2 Status"),
    "BatchUpdated": ("responses=1 *Updated",),
    "BatchRead": ("instance=1 string", "digests=2 *Digest"),
    "ReadBlob": ("digest=1 Digest", "data=2 bytes", "status=3 Status"),
    "BatchReadAnswer": ("responses=1 *ReadBlob",),
    "GetAction": ("instance=1 string", "digest=2 Digest"),
    "UpdateAction": ("instance=1 string", "digest=2 Digest", "result=3 bytes"),
    "ReadChunk": ("resource=1 string", "offset=2 int64"),
    "Chunk": ("data=10 bytes",),
    "WriteChunk": ("resource=1 string", "offset=2 int64", "finish=3 bool", "data=10 bytes"),
    "Written": ("size=1 int64",),
}
_SHA256 = 1
_ROOT = "build.bazel.remote.execution.v2."


class RemoteCache:
    """The cache's state, and its answers to each call.

    Attributes:
        served: calls that found something, and calls that stored something, by name.
        port: where it listens, once it does.
    """

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.port = 0
        self._blobs: dict[str, bytes] = {}
        self._results: dict[str, bytes] = {}
        self._types = message_types("cache", _MESSAGES)

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Return what a gRPC server serves."""
        one, raw = self._one, lambda body: body
        cas, actions = _ROOT + "ContentAddressableStorage", _ROOT + "ActionCache"
        calls = {
            _ROOT + "Capabilities": {"GetCapabilities": one(self._capabilities, "Empty")},
            cas: {
                "FindMissingBlobs": one(self._missing, "FindMissing"),
                "BatchUpdateBlobs": one(self._update, "BatchUpdate"),
                "BatchReadBlobs": one(self._read_batch, "BatchRead"),
            },
            actions: {
                "GetActionResult": grpc.unary_unary_rpc_method_handler(
                    self._get_action, self._types["GetAction"].FromString, raw
                ),
                "UpdateActionResult": grpc.unary_unary_rpc_method_handler(
                    self._update_action, self._types["UpdateAction"].FromString, raw
                ),
            },
            "google.bytestream.ByteStream": {
                "Read": grpc.unary_stream_rpc_method_handler(
                    self._read, self._types["ReadChunk"].FromString, _serialized
                ),
                "Write": grpc.stream_unary_rpc_method_handler(
                    self._write, self._types["WriteChunk"].FromString, _serialized
                ),
            },
        }
        return [grpc.method_handlers_generic_handler(*service) for service in calls.items()]

    def _one(self, answer: Callable[..., Any], asked: str) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            answer, self._types[asked].FromString, _serialized
        )

    def _capabilities(self, _asked: Any, _context: grpc.ServicerContext) -> Any:
        answer = self._types["ServerCapabilities"]()
        answer.cache.digest_functions.append(_SHA256)
        answer.cache.updates.update_enabled = True
        answer.cache.max_batch_total_size_bytes = 1 << 20
        answer.low.major = answer.high.major = 2
        return answer

    def _missing(self, asked: Any, _context: grpc.ServicerContext) -> Any:
        answer = self._types["Missing"]()
        answer.digests.extend(d for d in asked.digests if d.hash not in self._blobs)
        return answer

    def _update(self, asked: Any, _context: grpc.ServicerContext) -> Any:
        answer = self._types["BatchUpdated"]()
        for blob in asked.blobs:
            self._blobs[blob.digest.hash] = blob.data
            answer.responses.add().digest.CopyFrom(blob.digest)
        return answer

    def _read_batch(self, asked: Any, _context: grpc.ServicerContext) -> Any:
        answer = self._types["BatchReadAnswer"]()
        for digest in asked.digests:
            found = answer.responses.add()
            found.digest.CopyFrom(digest)
            found.data = self._blobs.get(digest.hash, b"")
            found.status.code = 0 if digest.hash in self._blobs else _not_found()
        return answer

    def _get_action(self, asked: Any, context: grpc.ServicerContext) -> bytes:
        result = self._results.get(asked.digest.hash)
        if result is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such action")
        self.served["action found"] += 1
        return result or b""

    def _update_action(self, asked: Any, _context: grpc.ServicerContext) -> bytes:
        self._results[asked.digest.hash] = asked.result
        self.served["action stored"] += 1
        return bytes(asked.result)

    def _read(self, asked: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        blob = self._blobs.get(_hash_in(asked.resource))
        if blob is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
        yield self._types["Chunk"](data=(blob or b"")[asked.offset :])

    def _write(self, chunks: Iterator[Any], _context: grpc.ServicerContext) -> Any:
        resource, body = "", b""
        for chunk in chunks:
            resource, body = resource or chunk.resource, body + chunk.data
        self._blobs[_hash_in(resource)] = body
        return self._types["Written"](size=len(body))


def _hash_in(resource: str) -> str:
    """Return the hash in `[instance/][uploads/UUID/]blobs/HASH/SIZE`."""
    return resource.split("/")[-2]


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _not_found() -> int:
    return int(grpc.StatusCode.NOT_FOUND.value[0])


@contextmanager
def remote_cache() -> Iterator[RemoteCache]:
    """A cache that listens on a free port of loopback."""
    cache = RemoteCache()
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(cache.handlers())
    cache.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield cache
    finally:
        server.stop(None).wait()
