"""The names in Redis are a contract with dashboards and autoscalers."""

from __future__ import annotations

import re

from shared.bus import keys


def test_keys_have_their_documented_names() -> None:
    assert keys.request_streams("question") == ("xr:question:hi", "xr:question:lo")
    assert keys.dead("question") == "xr:question:dead"
    assert keys.parked("question") == "xr:question:parked"
    assert keys.reply("run-1") == "xr:reply:run-1"
    assert keys.cancel("run-1") == "xr:cancel:run-1"
    assert keys.heartbeat("w1") == "xr:agents:w1"


def test_every_key_is_described_at_the_head_of_the_module() -> None:
    described = set(re.findall(r"^(xr:\S+)", keys.__doc__ or "", flags=re.MULTILINE))
    made = {
        *(keys.requests("<agent>", "hi"), keys.requests("<agent>", "lo")),
        *(keys.dead("<agent>"), keys.parked("<agent>"), keys.reply("<who>")),
        *(keys.cancel("<job_id>"), keys.heartbeat("<consumer>")),
        *(keys.AGENTS, keys.PARKED_REPLIES),
    }
    assert described == made
