"""Which models a run belongs to, and what it tells of its progress."""

from __future__ import annotations

import json

import pytest

from broker.agents_roster import (
    agents_needed,
    captioner_identity,
    clip_label,
    identity_fields,
    wait_for_agents,
)
from broker.progress import Progress
from broker.serializer import MsgpackSerializer
from shared.bus.records import LiveAgent
from shared.errors import PermanentError
from shared.knobs import Knobs


def alive(agent: str, identity: dict[str, str], worker: str = "w") -> LiveAgent:
    return LiveAgent(
        agent=agent, worker=worker, consumer=worker, identity=json.dumps(identity), in_flight=0,
        processed=0, failures=0, batches=0, started_at_s=0.0, last_batch_at_s=None,
    )  # fmt: skip


async def test_the_run_waits_until_every_agent_type_is_alive() -> None:
    rosters = [[], [alive("similarity", {"m": "s"})]]
    rosters.append([*rosters[1], alive("imagination", {"m": "i"}), alive("question", {"m": "q"})])
    waiting = iter(rosters)
    told: list[str] = []

    async def read() -> list[LiveAgent]:
        return next(waiting)

    found = await wait_for_agents(
        read, ("imagination", "similarity", "question"), told.append, poll_s=0.0
    )
    assert found == {"imagination": {"m": "i"}, "similarity": {"m": "s"}, "question": {"m": "q"}}
    assert told == [
        "waiting for an imagination agent and a question agent and a similarity agent",
        "waiting for an imagination agent and a question agent",
    ]


async def test_a_mixture_that_passes_is_waited_out_and_one_that_stays_is_refused() -> None:
    old, new = alive("similarity", {"m": "old"}, "w1"), alive("similarity", {"m": "new"}, "w2")
    waiting = iter([[old, new], [new]])

    async def read() -> list[LiveAgent]:
        return next(waiting)

    found = await wait_for_agents(read, ("similarity",), lambda note: None, poll_s=0.0)
    assert found == {"similarity": {"m": "new"}}

    async def stays() -> list[LiveAgent]:
        return [old, new]

    with pytest.raises(PermanentError, match=r"w2: .*new.*w1: .*old"):
        await wait_for_agents(
            stays, ("similarity",), lambda note: None, poll_s=0.0, mixture_patience_s=0.0
        )


def test_only_what_shapes_captions_is_in_the_captioners_identity() -> None:
    identity = {"model": "m", "prompt.caption": "c", "prompt.imagine_text": "t"}
    assert captioner_identity(identity) == {"model": "m", "prompt.caption": "c"}
    assert identity_fields("plain") == {"identity": "plain"}
    assert clip_label({"checkpoint": "/models/ViT-B-32/"}, "demo") == "ViT-B-32"
    assert clip_label(None, "demo") == "demo"
    assert agents_needed(Knobs(stages=("coarse",))) == ("imagination", "similarity")


def test_progress_tells_the_rate_of_late_and_keeps_former_phases() -> None:
    now = 0.0
    progress = Progress(clock=lambda: now)
    assert progress.snapshot() == []
    progress.begin("gallery", 10)
    progress.update(10, 10, 0)
    now = 2.0
    progress.begin("queries", 100, done=40)
    for second in range(3, 43):
        now = float(second)
        progress.update(40 + second, 100, 1)
    gallery, queries = progress.snapshot()
    assert gallery == {
        "phase": "gallery", "done": 10, "total": 10, "failed": 0, "seconds": 2.0, "rate_per_s": 0.0,
    }  # fmt: skip
    assert queries["rate_per_s"] == 1.0
    assert (queries["done"], queries["failed"], queries["seconds"]) == (82, 1, 40.0)


def test_jobs_travel_as_plain_values_and_nothing_else() -> None:
    job = ("function", None, ("run",), {"limit": 3, "payload": b"\0"})
    assert MsgpackSerializer.loads(MsgpackSerializer.dumps(job)) == [
        "function", None, ["run"], {"limit": 3, "payload": b"\0"},
    ]  # fmt: skip
    with pytest.raises(TypeError):
        MsgpackSerializer.dumps(object())
