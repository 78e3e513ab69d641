"""The estimate of a benchmark's cost against figures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.cost_model import GPUS, MODELS, Gpu, Words, Workload, costs, gpu_hours, total

H200_AS_MEASURED = Gpu(790, 4.8, 141)
EIGHT = MODELS["InternVL3-8B"]
IMAGES_ONLY = {"queries": 1, "verify_captions": False}


def verification(words: Words, **work: float | bool) -> tuple[float, float, float]:
    """Tokens, TFLOP and seconds at the measured matrix rate, of verifying images for one query."""
    asked = Workload(**(IMAGES_ONLY | work))  # type: ignore[arg-type]
    cost = costs(asked, EIGHT, H200_AS_MEASURED, words)["verify images"]
    return cost.prefilled, cost.tflop, cost.floor_s


NAIVE, TILED = Words(instruction=15, question=20), Words(instruction=60, question=20)
SHORT = Words(instruction=29, question=25)


@pytest.mark.parametrize(
    ("words", "work", "tokens", "tflop", "seconds"),
    [
        (NAIVE, {"max_tiles": 12, "shared_prefix": False}, 1_009_000, 16_734, 21.2),
        (TILED, {"max_tiles": 12}, 345_000, 5_702, 7.2),
        (SHORT, {}, 36_000, 550, 0.70),
        (SHORT, {"resident_share": 1.0}, 7_500, 99, 0.13),
        (SHORT, {"resident_share": 1.0, "verified_share": 0.33}, 2_500, 33, 0.04),
    ],
    ids=["one request a pair", "13 tiles, shared", "1 tile, shared", "resident", "early stop"],
)
def test_the_limit_of_verification_by_hand(
    words: Words, work: dict[str, float], tokens: float, tflop: float, seconds: float
) -> None:
    found = verification(words, **work)
    assert found == pytest.approx((tokens, tflop, seconds), rel=0.05)


def test_writing_is_bound_by_reading_the_weights() -> None:
    # 1,000 captions of 80 tokens, 100 at a time: the weights are read 800 times.
    work = Workload(1, gallery=1_000, candidates=0)
    cost = costs(work, EIGHT, H200_AS_MEASURED, batch=100)["caption the gallery"]
    reading_s = 1_000 * (EIGHT.prefill_tflop(556, 556) + EIGHT.tile_tflop()) / 790
    assert cost.floor_s == pytest.approx(reading_s + 800 * 13.06e9 / 4.8e12, rel=0.01)


def test_parts_add_up_and_hours_follow_the_share_of_the_peak() -> None:
    parts = costs(Workload(10, gallery=50), EIGHT, H200_AS_MEASURED)
    whole = total(parts)
    assert whole.requests == sum(cost.requests for cost in parts.values())
    assert whole.floor_s == pytest.approx(sum(cost.floor_s for cost in parts.values()))
    assert gpu_hours(whole, 0.5) == pytest.approx(2 * whole.floor_s / 3600)


def test_captions_known_and_answers_kept_are_not_read_again() -> None:
    words = Words(instruction=30, question=20, caption=70)
    work = {"queries": 2, "candidates": 50, "questions": 3}

    def captions(**shares: float) -> tuple[float, float]:
        cost = costs(Workload(**(work | shares)), EIGHT, H200_AS_MEASURED, words)["verify captions"]  # type: ignore[arg-type]
        return cost.requests, cost.prefilled

    assert captions() == (300, 100 * 100 + 300 * 20)
    assert captions(resident_share=1.0) == (300, 300 * 20)
    assert captions(cached_share=0.75) == (75, 25 * 100 + 75 * 20)
    assert captions(cached_share=1.0) == (0, 0)


def test_nothing_is_asked_where_nothing_is_verified() -> None:
    parts = costs(Workload(10, candidates=0), EIGHT, H200_AS_MEASURED)
    assert parts["verify images"].requests == parts["verify images"].floor_s == 0


def test_the_sizing_table_of_the_documents_is_what_plan_computes() -> None:
    page = Path(__file__).resolve().parents[3] / "docs/deploy-gpu-host.md"
    table = page.read_text().split("<!-- sizing -->")[1].split("<!-- end of sizing -->")[0]
    header, _, *rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
    assert {row[0] for row in rows} == set(GPUS)
    for gpu, memory, *cells in rows:
        assert float(memory) == GPUS[gpu].memory_gb
        for model, cell in zip(header[2:], cells, strict=True):
            if cell != "does not fit":
                whole = total(costs(Workload(queries=1000), MODELS[model], GPUS[gpu]))
                assert cell == f"{1000 / gpu_hours(whole, 0.4):,.0f}", (gpu, model)
