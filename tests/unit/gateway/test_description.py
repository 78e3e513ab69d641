"""The OpenAPI description is kept, so that every change of the API is seen in a review."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.gateway.fakes import Api

SNAPSHOT = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"


async def test_the_description_is_the_one_that_is_kept(api: Api) -> None:
    found = (await api.http.get("/openapi.json")).json()
    found["info"]["version"] = "0"
    assert found["openapi"].startswith("3.1")
    assert found == json.loads(SNAPSHOT.read_text()), "`make docs-openapi` writes it anew"
