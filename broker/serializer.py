"""The msgpack serializer RQ uses for jobs, their metadata and their results."""

from __future__ import annotations

from typing import Any

import msgpack


class MsgpackSerializer:
    """Passed to every Queue, Worker and `Job.fetch` of RQ, whose own serializer is pickle.

    Only plain values travel: None, booleans, numbers, strings, bytes, lists, dictionaries. Tuples
    come back as lists.
    """

    @staticmethod
    def dumps(value: Any) -> bytes:
        """Raises: TypeError: a value is not plain."""
        packed: bytes = msgpack.packb(value, use_bin_type=True)
        return packed

    @staticmethod
    def loads(payload: bytes) -> Any:
        return msgpack.unpackb(payload, raw=False, strict_map_key=False)
