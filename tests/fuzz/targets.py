"""What is fuzzed: each target reads bytes and may raise its declared errors, nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
from PIL import Image
from pydantic import ValidationError
from rq.exceptions import DeserializationError, NoSuchJobError

from agents.backends.control_tokens import ControlTokens
from agents.imagination.parsing import image_imagination, text_imagination
from agents.question.parsing import propositions
from broker.query_state import QueryState, decode_state, encode_state, verification_of
from broker.rq_job import FUNCTION, BenchmarkJob
from broker.serializer import MsgpackSerializer
from broker.state_log import find_frames, frame
from gateway.agent_board import _view
from gateway.records import BenchmarkRequest, SearchRequest
from shared.bus.client import _as_set_aside
from shared.bus.presence import read_heartbeat
from shared.bus.records import LiveAgent
from shared.bus.replying import failure_for_unreadable, failure_of_newer_reply
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage, decode, encode
from shared.contracts.skills import (
    Answers,
    ImagineText,
    RankedList,
    RankGallery,
    TextImagined,
    VerifyImages,
)
from shared.datasets.query_lines import read_queries
from shared.errors import DatasetError, DecodeError, ItemError, PermanentError
from shared.galleries import open_gallery
from shared.image_database import open_image_database
from shared.image_files import decode_image

KEY = "0" * 32


@dataclass(frozen=True)
class Target:
    """One reader of foreign bytes.

    Attributes:
        read: takes any bytes.
        errors: what it may raise.
        seeds: good inputs, to begin with.
    """

    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


def check(target: Target, payload: bytes) -> None:
    """Raises: whatever the target should not."""
    with contextlib.suppress(*target.errors):
        target.read(payload)


def _addressed(**fields: Any) -> RequestMessage:
    return RequestMessage(
        message_id="run/1/q/s/0", job_id="run/1", query_id="q", reply_to="xr:reply:run", **fields
    )


REQUESTS = tuple(
    encode(_addressed(body=body))
    for body in (
        ImagineText("make it red", reference_caption="a dress"),
        VerifyImages("g", (1, 2), ("Is it red?",)),
        RankGallery("d", {"v1": ("a", "b")}, (), 0.15, 10, (3,), (1, 2), 4),
    )
)
REPLIES = tuple(
    encode(ReplyMessage(message_id="run/1/q/s/0", worker="w", body=body))
    for body in (Failure("no", True), TextImagined((), ("red",)))
)
HEARTBEAT = msgspec.msgpack.encode(
    LiveAgent(
        agent="question", worker="w", consumer="w-1", identity="{}", in_flight=0, processed=1,
        failures=0, batches=1, started_at_s=1.0, last_batch_at_s=2.0,
    )
)  # fmt: skip
STATE = encode_state(
    QueryState(
        query_id="q",
        status="ok",
        text=TextImagined((), ("red",)),
        lists=(RankedList("v1", b"\1\0\0\0", b"\0\0\0\0"),),
        image_answers=verification_of((1, 2), (Answers((0.5,)), Answers((0.25,))), 1),
    )
)


def read_unreadable(payload: bytes) -> None:
    told = failure_for_unreadable(payload, "w", "malformed")
    if told is not None:
        decode(told[1], ReplyMessage)
    failure_of_newer_reply(payload, "newer")


def read_dead_letter(payload: bytes) -> None:
    """As `xr dead show` does: the entry's fields are hostile, too."""
    cut = payload.find(b"\n")
    fields = {b"m": payload, b"j": payload[:cut], b"deliveries": payload[:9], b"reason": payload}
    del fields[sorted(fields)[len(payload) % len(fields)]]
    _view(_as_set_aside("5-1", fields)).model_dump_json()


def read_job(payload: bytes) -> None:
    """A job's hash: the field named by the first byte, then what it holds."""
    names = (
        *(b"data", b"meta", b"status", b"created_at", b"timeout", b"exc_info", b"result"),
        *(b"retry_intervals", b"retries_left", b"origin", b"dependency_ids", b"webhooks"),
    )
    data = msgpack.packb([FUNCTION, None, ["run"], {}])
    fields = {b"data": data, b"status": b"queued", b"created_at": b"2026-01-01T00:00:00.000000Z"}
    if payload:
        fields[names[payload[0] % len(names)]] = payload[1:]
    job = BenchmarkJob("job", connection=_NO_REDIS, serializer=MsgpackSerializer)
    try:
        job.restore(fields)
    except Exception:  # `fetch` makes "no such job" of anything
        return
    assert isinstance(job.meta, dict)
    assert job.func_name == FUNCTION


def read_state(payload: bytes) -> None:
    state = decode_state(payload)
    for table in (state.image_answers, state.caption_answers, state.comparisons):
        if table is not None:
            table.table()
    assert decode_state(encode_state(state)).query_id == state.query_id


def read_answer(payload: bytes) -> None:
    """What a model has written."""
    text = payload.decode(errors="replace")
    for parse in (text_imagination, image_imagination):
        parse(text, "make it red")
    propositions(text, 3)
    inert = ControlTokens(["<|end|>", "<img>"]).inert(text)
    assert "<|end|>" not in inert


class Files:
    """A folder whose files are replaced by what is fuzzed, one at a time."""

    def __init__(self, write: Callable[[Path], Sequence[Path]], read: Callable[[Path], object]):
        self._folder = Path(tempfile.mkdtemp(prefix="xr-fuzz-"))
        self._files = list(write(self._folder))
        self._good = {path: path.read_bytes() for path in self._files}
        self._read = read

    def __call__(self, payload: bytes) -> None:
        changed = self._files[payload[0] % len(self._files)] if payload else self._files[0]
        changed.write_bytes(payload[1:])
        try:
            self._read(self._folder)
        finally:
            changed.write_bytes(self._good[changed])

    @property
    def seeds(self) -> tuple[bytes, ...]:
        return tuple(bytes([number]) + self._good[path] for number, path in enumerate(self._files))

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def write_database(home: Path) -> Sequence[Path]:
    folder = home / KEY
    folder.mkdir()
    manifest = {
        "key": KEY, "gallery": KEY, "captioner": {"a": "b"}, "clip": {"a": "b"}, "rows": 2,
        "searchable": 2, "dimensions": 3, "failures": [],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "captions.jsonl").write_text('{"row":0,"caption":"a"}\n{"row":1}\n')
    for name in ("image_embeddings.npy", "caption_embeddings.npy"):
        np.save(folder / name, np.ones((2, 3), np.float16))
    return sorted(folder.iterdir())


def read_database(home: Path) -> None:
    database = open_image_database(home, KEY)
    list(database.captions)
    database.image_embeddings.sum()


def write_gallery_files(home: Path) -> Sequence[Path]:
    folder = home / KEY
    folder.mkdir()
    meta = {"key": KEY, "rows": 1, "searchable": 1, "failures": {}}
    (folder / "meta.json").write_text(json.dumps(meta))
    row = {"image_id": "a", "path": "/nowhere", "sha256": "0", "width": 1, "height": 1}
    (folder / "gallery.jsonl").write_text(json.dumps(row) + "\n")
    return sorted(folder.iterdir())


def read_gallery(home: Path) -> None:
    gallery = open_gallery(home, KEY)
    for row in range(len(gallery)):
        gallery.image_id(row)
    gallery.row_of("a")


def write_queries(home: Path) -> Sequence[Path]:
    path = home / "queries.jsonl"
    line = {"query_id": "q", "modification_text": "red", "target_ids": ["a"], "tags": {"a": "b"}}
    path.write_text(json.dumps(line) + "\n")
    return [path]


def _images() -> tuple[bytes, ...]:
    picture = Image.linear_gradient("L").resize((9, 7)).convert("RGB")
    contents = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        file = io.BytesIO()
        picture.save(file, kind)
        contents.append(file.getvalue())
    return tuple(contents)


class _NoRedis:
    """Stands for a connection that a job only keeps."""

    connection_pool = None


_NO_REDIS: Any = _NoRedis()
_DATABASE = Files(write_database, read_database)
_GALLERY = Files(write_gallery_files, read_gallery)
_QUERIES = Files(write_queries, lambda home: list(read_queries(home / "queries.jsonl")))

TARGETS: dict[str, Target] = {
    "request": Target(lambda payload: decode(payload, RequestMessage), (DecodeError,), REQUESTS),
    "reply": Target(lambda payload: decode(payload, ReplyMessage), (DecodeError,), REPLIES),
    "unreadable": Target(read_unreadable, (), (*REQUESTS, *REPLIES)),
    "heartbeat": Target(read_heartbeat, (), (HEARTBEAT,)),
    "dead_letter": Target(read_dead_letter, (), REQUESTS),
    "rq_payload": Target(
        MsgpackSerializer.loads, (DecodeError,), (msgpack.packb([FUNCTION, None, ["run"], {}]),)
    ),
    "rq_job": Target(
        read_job,
        (NoSuchJobError, DeserializationError),
        (b"\0" + msgpack.packb(["os.system", None, ["x"], {}]), b"\1\x81\xa1a\1"),
    ),
    "state": Target(read_state, (DecodeError,), (STATE,)),
    "state_log": Target(
        lambda payload: find_frames(payload, Path("states.log")),
        (PermanentError,),
        (frame(STATE) + frame(b"x"),),
    ),
    "answer": Target(
        read_answer,
        (),
        (b'{"edits": [{"kind": "add", "subject": "a", "change": "new"}], "captions": ["a"]}',
         b'{"existent": ["a"], "nonexistent": [], "caption": "b"}',
         b'{"propositions": [{"question": "Is it?", "expected": true}]}'),
    ),
    "http_benchmark": Target(
        BenchmarkRequest.model_validate_json,
        (ValidationError,),
        (b'{"dataset": "demo", "split": "val", "knobs": {"top_k": 3}, "limit": 2}',),
    ),
    "http_search": Target(
        SearchRequest.model_validate_json,
        (ValidationError,),
        (b'{"modification_text": "red", "gallery": "0", "k": 3, "timeout_s": 1.5}',),
    ),
    "image": Target(decode_image, (ItemError,), _images()),
    "image_database": Target(_DATABASE, (DatasetError,), _DATABASE.seeds),
    "gallery": Target(_GALLERY, (DatasetError, ItemError), _GALLERY.seeds),
    "queries": Target(_QUERIES, (DatasetError,), _QUERIES.seeds),
}  # fmt: skip


def close() -> None:
    """Remove the temporary folders."""
    for files in (_DATABASE, _GALLERY, _QUERIES):
        files.close()
