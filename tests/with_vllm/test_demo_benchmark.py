"""The demo benchmark over the bus, once through real vLLM and once through transformers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

import agents
from broker.benchmark_run import coordinate
from broker.query_state import QueryState, Verification
from broker.run_store import COSTS, PREDICTIONS, RunRequest, create_run, read_states, run_folder
from shared.demo_world.benchmark import build, write
from shared.settings import Settings
from tests.integration.agents.processes import Processes, ended
from tests.with_vllm.engines import ON_CPU

CHECKPOINTS = Path(agents.__file__).parent / "checkpoints" / "demo"
QUERIES, GALLERY, TOP_K = 6, 40, 8
KNOBS = {"top_k": TOP_K, "baselines": True, "stages": ["coarse", "verify", "compare"]}
WITHIN_S = 400.0
TOLERANCE = 1e-3
PROFILE = """
prompts = "compact"
[models.vision]
backend = "{backend}"
checkpoint = "{checkpoints}/vision"
options = {{ dtype = "float32", {options} }}
[models.text]
backend = "{backend}"
checkpoint = "{checkpoints}/text"
options = {{ dtype = "float32", {options} }}
[models.clip]
backend = "open_clip"
checkpoint = "{checkpoints}/clip"
options = {{ device = "cpu", precision = "fp32" }}
[roles]
captioner = "vision"
imaginer_text = "text"
imaginer_image = "vision"
proposer = "text"
evaluator_image = "vision"
evaluator_caption = "text"
clip = "clip"
"""
VLLM_OPTIONS = "context_length = 2048, in_flight = 64, engine = { %s }"


class Workplace:
    """A home with the demo data set and agents of one backend; runs share nothing but the data."""

    def __init__(self, folder: Path, data: Path, redis_url: str, backend: str) -> None:
        folder.mkdir()
        engine = ", ".join(f"{name} = {json.dumps(value)}" for name, value in ON_CPU.items())
        profile = folder / "engine.toml"
        profile.write_text(
            PROFILE.format(
                backend=backend,
                checkpoints=CHECKPOINTS,
                options=VLLM_OPTIONS % engine if backend == "vllm" else 'device = "cpu"',
            )
        )
        self.settings = Settings(
            redis_url=redis_url, home=folder, data_root=data, profile=str(profile), lease_s=30.0
        )
        self.processes = Processes(folder)

    async def serve(self) -> Any:
        process = self.processes.start(
            "imagination", "similarity", "question",
            redis_url=self.settings.redis_url, name="engine", XR_PROFILE=self.settings.profile,
            XR_LEASE_S="30", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR",
        )  # fmt: skip
        log = self.processes.log("engine")
        while (
            '"event": "serving imagination' not in log.read_text()
        ):  # the engine writes there, too
            assert process.poll() is None, log.read_text()
            await asyncio.sleep(0.2)
        return process

    async def run(self, redis: Redis, name: str) -> tuple[dict[str, QueryState], list[Any], Any]:
        """The states, the predictions and the costs of a run."""
        request = RunRequest(dataset="demo", split="val", name=name, knobs=KNOBS, limit=QUERIES)
        run_id = create_run(self.settings.runs_folder, request, "clip")

        async def ignore(status: object) -> None:
            """Nobody watches."""

        await asyncio.wait_for(coordinate(run_id, self.settings, redis, ignore), WITHIN_S)
        folder = run_folder(self.settings.runs_folder, run_id)
        lines = (folder / PREDICTIONS).read_text().splitlines()
        return (
            read_states(self.settings.runs_folder, run_id),
            [json.loads(line) for line in lines],
            json.loads((folder / COSTS).read_bytes()),
        )


async def test_the_demo_benchmark_is_answered_alike_and_what_was_asked_before_is_not_asked_again(
    tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    # Given the demo data set, and agents on vLLM: three roles of two models in one process
    data = tmp_path / "data"
    write(build(seed=11, n_queries=QUERIES, n_gallery=GALLERY), data / "demo")
    vllm = Workplace(tmp_path / "vllm", data, redis_url, "vllm")
    process = await vllm.serve()
    try:
        states, predictions, costs = await vllm.run(redis, "first")
        # When the same is asked again
        states_again, predictions_again, costs_again = await vllm.run(redis, "second")
    finally:
        process.terminate()
        code = await ended(process)
    # Then it ends in order and leaves no engine behind
    assert code == 0
    async with asyncio.timeout(20):
        while engine_processes_of(vllm.settings.home):  # noqa: ASYNC110 (other processes tell nobody)
            await asyncio.sleep(0.2)
    # And nothing but the answer cache was asked, and the bytes are the same
    assert states_again == states
    assert predictions_again == predictions
    spent, spent_again = costs["agents"]["question"], costs_again["agents"]["question"]
    assert spent["requests"] > 0 and spent["prefilled_tokens"] > 0
    assert "requests" not in costs_again["total"]
    assert costs_again["cache_hit_rate"] == 1.0
    assert spent_again["cache_hits"] == spent["cache_hits"] + spent["cache_misses"]

    # And the transformers backend answers alike
    plain = Workplace(tmp_path / "transformers", data, redis_url, "transformers")
    process = await plain.serve()
    try:
        reference, reference_predictions, _ = await plain.run(redis, "reference")
    finally:
        process.terminate()
        await ended(process)
    assert states.keys() == reference.keys()
    for query_id, state in states.items():
        other = reference[query_id]
        assert (state.status, state.text, state.image) == (other.status, other.text, other.image)
        assert state.propositions == other.propositions
        for ours, theirs in (
            (state.image_answers, other.image_answers),
            (state.caption_answers, other.caption_answers),
            (state.comparisons, other.comparisons),
        ):
            assert_alike(ours, theirs)
    for line, other_line in zip(predictions, reference_predictions, strict=True):
        assert line["ranking"] == other_line["ranking"]


def engine_processes_of(home: Path) -> list[str]:
    """Ids of the processes that still run with this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"XR_HOME={home}\0".encode() in environment:
            found.append(folder.name)
    return found


def assert_alike(ours: Verification | None, theirs: Verification | None) -> None:
    assert ours is not None and theirs is not None
    (rows, p_yes), (other_rows, other_p_yes) = ours.table(), theirs.table()
    if rows.tolist() == other_rows.tolist():
        assert p_yes == pytest.approx(other_p_yes, abs=TOLERANCE)
        return
    # the compared come in the order of verification: the same ones, perhaps in another order
    by_row = dict(zip(rows.tolist(), p_yes, strict=True))
    other_by_row = dict(zip(other_rows.tolist(), other_p_yes, strict=True))
    assert by_row.keys() == other_by_row.keys()
    for row, answers in by_row.items():
        np.testing.assert_allclose(answers, other_by_row[row], atol=TOLERANCE)
