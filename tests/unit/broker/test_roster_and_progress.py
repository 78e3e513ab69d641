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
from shared.knobs import Knobs, from_mapping


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


PROMPTS = {
    "backend": "transformers",
    "checkpoint": "OpenGVLab/InternVL3-8B-hf",
    "prompt.imagine_text": "0123 to transformers:OpenGVLab/InternVL3-8B-hf@abc",
    "prompt.imagine_image": "4567 to openai:other/model@",
    "prompt.caption": "89ab to transformers:captioner@0123456789abcdef",
}


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({}, ""),
        ({"llm": "OpenGVLab/InternVL3-8B-hf"}, ""),
        ({"llm": "InternVL3-8B-hf", "mllm": "other/model", "clip": "ViT-B-32@laion"}, ""),
        ({"captioner": "/models/captioner"}, ""),
        ({"llm": "Another/InternVL3-8B-hf"}, "serves imagine_text with OpenGVLab/InternVL3-8B-hf"),
        (
            {"mllm": "OpenGVLab/InternVL3-8B-hf"},
            "mllm is .* but .* serves imagine_image with other",
        ),
        ({"clip": "ViT-L-14"}, "clip is 'ViT-L-14', but the similarity agent .* ViT-B-32@laion"),
        ({"clip": "ViT-B-32@openai"}, "XR_CLIP, or a profile"),
    ],
)
async def test_a_run_that_names_another_model_than_is_served_is_told_and_refused(
    wanted: dict[str, str], complaint: str
) -> None:
    clip = {"checkpoint": "ViT-B-32", "revision": "laion"}
    told: list[str] = []

    async def read() -> list[LiveAgent]:
        return [alive("imagination", PROMPTS), alive("similarity", clip)]

    async def wait() -> object:
        return await wait_for_agents(
            read, ("imagination", "similarity"), told.append, knobs=from_mapping(wanted),
            poll_s=0.0, mixture_patience_s=0.01,
        )  # fmt: skip

    if not complaint:
        assert await wait() == {"imagination": PROMPTS, "similarity": clip}
        return
    with pytest.raises(PermanentError, match=complaint):
        await wait()
    assert len(told) == 1
