"""Which replica has made which response: engines keep them, and know only their own.  Pure.

Rows are in memory that several processes may share; each is written whole.  A response finds its
row by its hash, and the last one to come there stays: what is not found can be asked for.
"""

import mmap
import struct

import xxhash

# A response is asked for within minutes; this many are made in the meantime, 2 MiB of them.
ROWS = 1 << 17
# hash of the response, hash of the replica
_ROW = struct.Struct("=QQ")

SIZE_BYTES = ROWS * _ROW.size


class ResponseOwners:
    """Replicas, by the responses that they keep."""

    def __init__(self) -> None:
        """Make the memory; processes that are forked from here on share it."""
        # What of it is never written is never used.
        self._memory = mmap.mmap(-1, SIZE_BYTES)

    def add(self, response: str, replica: int) -> None:
        """*replica*, by its number, has made *response*."""
        number = _number(response)
        _ROW.pack_into(self._memory, number % ROWS * _ROW.size, number, replica)

    def owner(self, response: str) -> int | None:
        """Return the number of the replica that has made *response*; None where it is unknown."""
        number = _number(response)
        written, replica = _ROW.unpack_from(self._memory, number % ROWS * _ROW.size)
        return replica if written == number else None


def _number(response: str) -> int:
    return xxhash.xxh3_64_intdigest(response.encode()) or 1
