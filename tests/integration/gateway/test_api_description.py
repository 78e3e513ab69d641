"""Requests made up from the OpenAPI description, to a real gateway: it answers as described.

`make fuzz-api` asks each operation many more times, and other things each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.integration.gateway.served import Served, served_gateway

DESCRIPTION = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"
EXAMPLES = int(os.environ.get("XR_FUZZ_API_EXAMPLES", "0"))
"""Per operation; 0 = a few, the same ones each time."""
_SHORTEST_TIMEOUT_S = 30.0

_REFUSED = ("400", "401", "403", "404", "405", "409", "413", "415", "422", "429")
"""What a wrong request may be answered with; 413 also where a list is too long to be read."""
_CONFIG = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": list(_REFUSED)}}}
)

schema = schemathesis.openapi.from_dict(json.loads(DESCRIPTION.read_text()), config=_CONFIG)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_gateway(tmp_path_factory.mktemp("served")) as found:
        yield found


@schema.parametrize()
@settings(
    max_examples=EXAMPLES or 8,
    derandomize=not EXAMPLES,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: schemathesis.Case, served: Served) -> None:
    _ask(case, served)
    if _points_to_what_is_there(case, served):
        _ask(case, served)


def _ask(case: schemathesis.Case, served: Served) -> None:
    # Whoever gives a search no time gets 504, and rightly so
    if isinstance(case.body, dict) and isinstance(case.body.get("timeout_s"), int | float):
        case.body["timeout_s"] = max(case.body["timeout_s"], _SHORTEST_TIMEOUT_S)
    # No coordinator is up here, and /readyz says so by the 503 it describes. And what a body means
    # (is the folder there, are these bytes an image?) no schema says: 422 is an answer to it.
    spared = [not_a_server_error] if case.path == "/readyz" else []
    if case.method.upper() == "POST":
        spared.append(positive_data_acceptance)
    case.call_and_validate(base_url=served.url, timeout=60, excluded_checks=spared)


def _points_to_what_is_there(case: schemathesis.Case, served: Served) -> bool:
    """Put real ids in place of made-up ones; false where there is no place, or it would go."""
    known: dict[str, Any] = {
        "benchmark_id": served.run,
        "run_id": served.run,
        "other_id": served.run,
        "key": served.gallery,
        "image_id": served.image,
        "query_id": "q1",
        "upload_id": served.upload,
        "agent": "question",
    }
    if case.method.upper() == "DELETE" and "key" in case.path_parameters:
        return False
    ids = known.keys() & case.path_parameters.keys()
    case.path_parameters.update({name: known[name] for name in ids})
    searches = case.path.startswith("/v1/search") and isinstance(case.body, dict)
    if searches:
        case.body.pop("database", None)
        case.body.update(gallery=served.gallery, reference_image_id=served.image)
    return bool(ids) or searches
