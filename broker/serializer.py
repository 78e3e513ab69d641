"""The msgpack serializer RQ uses for jobs, their metadata and their results."""

from __future__ import annotations

from typing import Any

import msgpack
import rq.serializers

from shared.errors import DecodeError


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
        """Raises: DecodeError: no msgpack, or values that are not plain."""
        try:
            return msgpack.unpackb(
                payload, raw=False, strict_map_key=False, ext_hook=_refuse_extension
            )
        except Exception as error:  # msgpack raises half a dozen unrelated types on bad input
            reason = str(error) or type(error).__name__
            raise DecodeError(payload, f"no msgpack of plain values: {reason}") from error


def _refuse_extension(code: int, _content: bytes) -> Any:
    raise ValueError(f"extension type {code}")


# RQ takes pickle wherever it is given no serializer (its scheduler, its tools). In a process that
# has loaded this module there is no pickle for it to take.
rq.serializers.PickleSerializer = rq.serializers.DefaultSerializer = MsgpackSerializer
rq.serializers.SERIALIZER_ALIASES["pickle"] = MsgpackSerializer
