"""A publisher of KV-cache events that speaks as vLLM's does (vllm/distributed/kv_events.py)."""

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec
import zmq
import zmq.asyncio

END = (-1).to_bytes(8, "big", signed=True)


def stored(
    hashes: Sequence[int], tokens: Sequence[int], parent: int | None = None, size: int = 4
) -> dict[str, object]:
    return {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": parent,
        "token_ids": list(tokens),
        "block_size": size,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "group_idx": 0,
    }


def payload(*events: object) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


class Publisher:
    """PUB and ROUTER sockets on loopback; numbers from 0, and the last messages kept."""

    def __init__(self, folder: str, kept: int = 10_000) -> None:
        self.endpoint, self.replay = f"ipc://{folder}/kv", f"ipc://{folder}/replay"
        self._context = zmq.asyncio.Context()
        self._events = self._context.socket(zmq.PUB)
        self._again = self._context.socket(zmq.ROUTER)
        self._events.bind(self.endpoint)
        self._again.bind(self.replay)
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self.number = 0
        self.asked: list[int] = []
        self._task = asyncio.create_task(self._answer())

    async def publish(self, *events: object, lose: bool = False, raw: bytes | None = None) -> None:
        """Send a message, or only count it, as when buffers are full."""
        body = payload(*events) if raw is None else raw
        self._kept.append((self.number, body))
        if not lose:
            await self._events.send_multipart((b"kv", self.number.to_bytes(8, "big"), body))
        self.number += 1

    def close(self) -> None:
        self._task.cancel()
        self._context.destroy(linger=0)

    async def _answer(self) -> None:
        while True:
            client, _, first = await self._again.recv_multipart()
            self.asked.append(int.from_bytes(first, "big"))
            for number, body in list(self._kept):
                if number >= self.asked[-1]:
                    frames = (client, b"", b"kv", number.to_bytes(8, "big"), body)
                    await self._again.send_multipart(frames)
            await self._again.send_multipart((client, b"", b"", END, b""))
