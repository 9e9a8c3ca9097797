"""A real gRPC server on loopback that answers as Modal's control plane does, and remembers.

Every call that the client library can make is answered; what a deployment needs to go on (ids,
finished image builds, echoes of what was created) is in `_ANSWERS`.
"""

import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

# All of these come with modal.
from google.protobuf.message import Message  # type: ignore[import-untyped]  # pants: no-infer-dep
from grpclib.const import Handler  # pants: no-infer-dep
from grpclib.server import Server, Stream  # pants: no-infer-dep
from modal_proto import api_grpc, api_pb2  # pants: no-infer-dep

M = TypeVar("M", bound=Message)

# As in Modal's own ids; what the client checks is the part before the dash.
_PREFIXES = {
    "app_id": "ap",
    "class_id": "cs",
    "environment_id": "en",
    "function_id": "fu",
    "image_id": "im",
    "mount_id": "mo",
    "secret_id": "st",
    "volume_id": "vo",
}

_IMAGE_BUILDER = "2025.06"


@dataclass(slots=True)
class ControlPlane:
    """A running control plane.

    Attributes:
        url: for MODAL_SERVER_URL.
        calls: name and request of every call, in order.
    """

    url: str = ""
    calls: list[tuple[str, Message]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def requests(self, kind: type[M]) -> list[M]:
        """Return the requests of one kind, in order."""
        return [request for _, request in self.calls if isinstance(request, kind)]

    def new_id(self, field_name: str) -> str:
        return f"{_PREFIXES.get(field_name, 'ob')}-{next(self._numbers):06d}"

    async def answer(self, name: str, kind: type[Message], stream: Stream[Any, Any]) -> None:
        request = await stream.recv_message()
        assert request is not None
        self.calls.append((name, request))
        answer = kind()
        self._give_ids(answer)
        if name in _ANSWERS:
            _ANSWERS[name](request, answer)
        await stream.send_message(answer)

    def _give_ids(self, answer: Message) -> None:
        for described in answer.DESCRIPTOR.fields:
            text = described.type == described.TYPE_STRING and not described.is_repeated
            if text and described.name.endswith("_id"):
                setattr(answer, described.name, self.new_id(described.name))


@asynccontextmanager
async def control_plane() -> AsyncIterator[ControlPlane]:
    """Run a control plane on a free port."""
    plane = ControlPlane()
    server = Server([_Handlers(plane)])
    listening = socket.create_server(("127.0.0.1", 0))
    await server.start(sock=listening)
    plane.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield plane
    finally:
        server.close()
        await server.wait_closed()


class _Handlers:
    """What grpclib asks of a service: a handler for each of its methods."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def __mapping__(self) -> dict[str, Handler]:
        return {path: self._handler(path, known) for path, known in _known_methods().items()}

    def _handler(self, path: str, known: Handler) -> Handler:
        name = path.rpartition("/")[2]

        async def handle(stream: Stream[Any, Any]) -> None:
            await self._plane.answer(name, known.reply_type, stream)

        return Handler(handle, known.cardinality, known.request_type, known.reply_type)


def _known_methods() -> dict[str, Handler]:
    """The methods that the installed client library knows, by path."""
    base = api_grpc.ModalClientBase
    concrete = type("Concrete", (base,), dict.fromkeys(base.__abstractmethods__, _unimplemented))
    return dict(concrete().__mapping__())


async def _unimplemented(self: object, stream: object) -> None:
    raise NotImplementedError


def _environment(_: Any, answer: Any) -> None:
    answer.metadata.name = "main"
    answer.metadata.settings.image_builder_version = _IMAGE_BUILDER


def _image(_: Any, answer: Any) -> None:
    answer.result.status = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
    answer.metadata.image_builder_version = _IMAGE_BUILDER


def _image_join(_: Any, answer: Any) -> None:
    answer.result.status = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS


def _mount_file(_: Any, answer: Any) -> None:
    answer.exists = True


def _precreate(request: Any, answer: Any) -> None:
    answer.function_id = request.existing_function_id or answer.function_id
    answer.handle_metadata.function_name = request.function_name


def _function(request: Any, answer: Any) -> None:
    answer.function_id = request.existing_function_id or answer.function_id
    if request.HasField("function_data"):
        answer.function_data.CopyFrom(request.function_data)
        answer.handle_metadata.function_name = request.function_data.function_name
        return
    answer.function.CopyFrom(request.function)
    answer.function_data.ranked_functions.add(rank=0).function.CopyFrom(request.function)
    answer.handle_metadata.function_name = request.function.function_name


_ANSWERS: dict[str, Callable[[Any, Any], None]] = {
    "EnvironmentGetOrCreate": _environment,
    "FunctionCreate": _function,
    "FunctionPrecreate": _precreate,
    "ImageGetOrCreate": _image,
    "ImageJoinStreaming": _image_join,
    "MountPutFile": _mount_file,
}
