"""What all trainings share: the optimiser, its schedule, padding, mixed precision and logging."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

IGNORED = -100
"""The label of a position that is not learnt."""


class MixedOptimiser:
    """Muon for the matrices inside the network, AdamW for everything else, one schedule for both.

    The rate warms up over 50 steps, stays until `decay_from` of all steps and then falls linearly.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        rate: float,
        steps: int,
        decay_from: float = 0.5,
    ) -> None:
        named = [(name, value) for name, value in parameters if value.requires_grad]
        outer = ("embed", "lm_head", "head", "projection", "proj_", "token", "position")
        matrices = [
            value
            for name, value in named
            if value.ndim == 2 and not any(word in name for word in outer)
        ]
        inside = {id(value) for value in matrices}
        others = [value for _, value in named if id(value) not in inside]
        self._parameters = [value for _, value in named]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
        ]
        if matrices:
            self._optimisers.append(
                torch.optim.Muon(
                    matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
                )
            )
        self.rate, self.steps, self.decay_from, self.step_count = rate, steps, decay_from, 0

    def step(self) -> None:
        """Clip, update, clear the gradients, move the schedule on."""
        done = self.step_count / max(1, self.steps)
        fall = 1.0 if done < self.decay_from else max(0.01, (1 - done) / (1 - self.decay_from))
        rate = self.rate * min(1.0, (self.step_count + 1) / 50) * fall
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()
        self.step_count += 1


def attend_in_float32(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in float32 inside bfloat16 autocast: on CPUs its backward pass is 2.5 times faster.

    query, key, value: (rows, heads, length, head size), as many key as query heads.
    """
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    with torch.autocast("cpu", enabled=False):
        mixed = nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(),
            attn_mask=None if attention_mask is None else attention_mask.float(),
            is_causal=causal and attention_mask is None and query.shape[2] > 1, scale=scaling,
        )  # fmt: skip
    return mixed.transpose(1, 2).contiguous().to(query.dtype), None


AttentionInterface.register("float32_in_autocast", attend_in_float32)


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Ragged integer rows -> int64 (len(rows), longest), filled on the right.

    Causal models need no mask for padding on the right: no earlier position sees it.
    """
    longest = max(len(row) for row in rows)
    padded = torch.full((len(rows), longest), fill, dtype=torch.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded


class ProgressLog:
    """Prints the running mean of named losses every `every_s` seconds."""

    def __init__(self, name: str, every_s: float = 30.0) -> None:
        self.name, self.every_s = name, every_s
        self.started_s = self.last_s = time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, step: int, steps: int, values: dict[str, float]) -> bool:
        """Count one step; True when a line was printed."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._count += 1
        now_s = time.monotonic()
        if now_s - self.last_s < self.every_s and step + 1 < steps:
            return False
        means = " ".join(f"{key} {total / self._count:.4f}" for key, total in self._sums.items())
        elapsed_s = now_s - self.started_s
        print(f"{self.name} {step + 1}/{steps} {elapsed_s:.0f}s {means}", flush=True)
        self.last_s, self._sums, self._count = now_s, {}, 0
        return True
