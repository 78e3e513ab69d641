"""Dashboard and alerts speak of figures that the services really show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis as BlockingRedis

from agents.engine import Engine
from agents.health import Health
from agents.metrics import exposition
from broker.health import CoordinatorHealth
from broker.rq_worker import BenchmarkWorker
from shared.settings import Settings
from tests.unit.gateway.conftest import Api

MONITORING = Path(__file__).resolve().parents[3] / "k8s/monitoring"


def expressions() -> list[str]:
    board: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    rules: dict[str, Any] = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    return [
        *(target["expr"] for panel in board["panels"] for target in panel["targets"]),
        *(rule["expr"] for group in rules["groups"] for rule in group["rules"]),
    ]


def names_in(text: str) -> set[str]:
    """Of samples and of families, as some have no sample yet."""
    families = list(text_string_to_metric_families(text))
    samples = {sample.name for family in families for sample in family.samples}
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return samples | {
        f"{family.name}{ending}" for family in families for ending in kinds.get(family.type, ("",))
    }


async def test_every_figure_of_dashboard_and_alerts_exists(api: Api, redis_url: str) -> None:
    shown = names_in((await api.http.get("/metrics")).text)
    engine = Engine(60.0)
    shown |= names_in(exposition(Health(engine, 0.0)).decode())
    engine.close()
    with BlockingRedis.from_url(redis_url) as redis:
        worker = BenchmarkWorker(redis, "monitored")
        health = CoordinatorHealth(worker, Settings(redis_url=redis_url))
        shown |= names_in(health.exposition().decode())
        assert "xr_coordinator_ready 1.0" in health.exposition().decode()
        health.close()
    spoken = {name for text in expressions() for name in re.findall(r"\bxr_[a-z_]+", text)}
    assert len(spoken) > 15
    assert spoken - shown == set()
