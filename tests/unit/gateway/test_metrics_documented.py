"""docs/health.md names every metric there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from agents.engine import Engine
from agents.health import Health
from agents.metrics import exposition
from gateway.agent_board import _COUNTS
from tests.unit.gateway.fakes import Api

PAGE = Path(__file__).resolve().parents[3] / "docs" / "health.md"


def exposed(text: str) -> set[str]:
    """The names of an exposition's families, counters with their `_total`."""
    found = re.findall(r"^# TYPE (xr_\w+) (\w+)$", text, re.MULTILINE)
    return {name for name, _ in found if not name.endswith("_created")}


async def test_every_metric_of_gateway_and_agents_is_documented_and_no_other(api: Api) -> None:
    view = api.board.views[0]
    worker = view.details[0].model_copy(update={"counts": dict.fromkeys(_COUNTS, 1)})
    api.board.views[0] = view.model_copy(update={"details": [worker]})
    gateway = exposed((await api.http.get("/metrics")).text)
    agent = exposed(exposition(Health(Engine(1.0), canary_s=0)).decode())
    documented = set(re.findall(r"`(xr_\w+)", PAGE.read_text()))
    # An agent's counts carry the gateway's names.
    assert gateway | agent == documented
