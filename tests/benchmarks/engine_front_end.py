"""What stands in front of a vLLM engine costs, and how long a person waits beside a benchmark.

    make bench-engine

In the environment of `make env-vllm`, on a tiny checkpoint whose images take 256 tokens, as those
of InternVL3 do. The engine computes in a process of its own: the CPU time of this process is what
the front end costs, the forward pass left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from agents.backends.contract import ChoiceRequest, GenerationRequest, ImageFile, Prompt
from agents.backends.vllm import VllmModel
from agents.imagination.schemas import TEXT_IMAGINATION
from agents.prompting import load_prompts
from agents.skill_prompts import imagine_text_prompt, verify_image_prompt
from shared.errors import ItemError
from shared.urgency import Urgency, answering
from tests.unit.agents.tiny_checkpoints import write_vision_checkpoint
from tests.with_vllm.engines import image_file, on_cpu

IMAGES, QUESTIONS, CHUNK = 40, 3, 25
IMAGINED_TOKENS = 48
ALONE_S = 5.0
TARGET_MS, TARGET_RATIO = 1.0, 1.5

Outcome = TypeVar("Outcome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of warm questions")
    parser.add_argument("--imaginations", type=int, default=15, help="timed, idle and beside")
    parser.add_argument("--in-flight", type=int, default=16, help="background requests at once")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_vision_checkpoint(
            Path(folder) / "checkpoint", tile_px=448, patch_px=14, context_length=4096
        )
        images = _images(Path(folder))
        model = on_cpu(checkpoint, in_flight=chosen.in_flight)
        try:
            warm = _warm_questions(model, images, chosen.rounds)
            idle = _imaginations(model, chosen.imaginations)
            beside, alone_per_s, beside_per_s = _beside_verification(
                model, images, chosen.imaginations
            )
        finally:
            model.close()
    _print_table(warm, idle, beside, alone_per_s, beside_per_s)


def _warm_questions(
    model: VllmModel, images: Sequence[ImageFile], rounds: int
) -> list[tuple[float, float, int]]:
    """(ms CPU of this process, ms of the clock, questions) of each round of new questions."""
    _ask(model, images, "Is it there?")
    found = []
    for number in range(rounds):
        decoded = model.counters["images_decoded"]
        cpu_s, began_s = time.process_time(), time.monotonic()
        count = sum(
            _ask(model, images, f"Is number {number} there, or {place}?")
            for place in range(QUESTIONS)
        )
        found.append(
            (1000 * (time.process_time() - cpu_s), 1000 * (time.monotonic() - began_s), count)
        )
        assert model.counters["images_decoded"] == decoded, "a warm image was decoded"
    return found


def _ask(model: VllmModel, images: Sequence[ImageFile], question: str) -> int:
    prompts = load_prompts("standard")
    requests = [ChoiceRequest(verify_image_prompt(prompts, image, question)) for image in images]
    for first in range(0, len(requests), CHUNK):
        _all_answered(model.choose(requests[first : first + CHUNK]))
    return len(requests)


def _imaginations(model: VllmModel, count: int) -> list[float]:
    """Seconds of each, one after the other, as a person asks."""
    prompts, seconds = load_prompts("standard"), []
    for number in range(count + 1):
        prompt: Prompt = imagine_text_prompt(prompts, f"make it {number} times larger", "a dress")
        began_s = time.monotonic()
        with answering(Urgency.INTERACTIVE):
            _all_answered(
                model.generate([GenerationRequest(prompt, IMAGINED_TOKENS, TEXT_IMAGINATION)])
            )
        seconds.append(time.monotonic() - began_s)
    return seconds[1:]  # the first compiles the grammar


def _beside_verification(
    model: VllmModel, images: Sequence[ImageFile], count: int
) -> tuple[list[float], float, float]:
    """Seconds of each imagination while two threads verify, and their questions a second, before
    and meanwhile: one imagination after the other is the worst a person can do to them.
    """
    stop = threading.Event()
    threads = [
        threading.Thread(target=_keep_asking, args=(model, images, place, stop))
        for place in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        alone_per_s, _ = _requests_per_s(model, lambda: time.sleep(ALONE_S))
        all_per_s, seconds = _requests_per_s(model, lambda: _imaginations(model, count))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return seconds, alone_per_s, all_per_s - 1 / statistics.mean(seconds)


def _requests_per_s(model: VllmModel, work: Callable[[], Outcome]) -> tuple[float, Outcome]:
    """The engine's requests a second while `work` is done, and what it has given."""
    before, began_s = model.counters["requests"], time.monotonic()
    outcome = work()
    return (model.counters["requests"] - before) / (time.monotonic() - began_s), outcome


def _keep_asking(
    model: VllmModel,
    images: Sequence[ImageFile],
    place: int,
    stop: threading.Event,
) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        _ask(model, images, f"Is it as {place} and {number}?")


def _all_answered(answers: Sequence[object]) -> None:
    failures = [answer for answer in answers if isinstance(answer, ItemError)]
    if failures:
        raise failures[0]


def _images(folder: Path) -> list[ImageFile]:
    for number in range(IMAGES):
        picture = Image.effect_noise((480, 360), 20 + number).convert("RGB")
        picture.save(folder / f"{number:03d}.png")
    return [image_file(path) for path in sorted(folder.glob("*.png"))]


def _print_table(
    warm: Sequence[tuple[float, float, int]],
    idle: Sequence[float],
    beside: Sequence[float],
    alone_per_s: float,
    beside_per_s: float,
) -> None:
    cpu_ms = statistics.median(cpu / count for cpu, _, count in warm)
    clock_ms = statistics.median(clock / count for _, clock, count in warm)
    p50: Callable[[Sequence[float]], float] = statistics.median
    ratio = p50(beside) / p50(idle)
    print("| figure | measured | aimed at |")
    print("|---|---|---|")
    print(f"| front end, ms CPU per warm question | {cpu_ms:.2f} | {TARGET_MS:g} |")
    print(f"| the same with the forward pass, ms of the clock | {clock_ms:.2f} | |")
    print(f"| imagination alone, p50 ms | {1000 * p50(idle):.0f} | |")
    print(f"| imagination beside verification, p50 ms | {1000 * p50(beside):.0f} | |")
    print(f"| ratio | {ratio:.2f} | {TARGET_RATIO:g} |")
    print(f"| verification alone, questions a second | {alone_per_s:.0f} | |")
    print(f"| verification beside one imagination after the other | {beside_per_s:.0f} | |")


if __name__ == "__main__":
    main()
