"""The OpenAPI description: what the routes say, with examples; `python -m gateway.description FILE`
writes it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from gateway.records import GalleryRequest, Problem
from gateway.records.examples import EXAMPLES
from shared import atomic_files
from shared.settings import Settings

_NAMED_BY_ROUTES: tuple[type[BaseModel], ...] = (GalleryRequest, Problem)
"""Records that routes refer to by their name in the description alone."""


class DescribedApi(FastAPI):
    """An application whose description has every record that is named in it, and examples."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schemas = super().openapi()["components"]["schemas"]
            for record in _NAMED_BY_ROUTES:
                schemas[record.__name__] = record.model_json_schema()
            for name, examples in EXAMPLES.items():
                schemas[name]["examples"] = examples
        return super().openapi()


def write_description(path: Path) -> None:
    """As every gateway serves it at /openapi.json, without the program's version."""
    from gateway.app import create_app
    from gateway.redis_client import gateway_redis

    settings = Settings()
    description = create_app(settings, gateway_redis(settings)).openapi()
    description["info"]["version"] = "0"
    atomic_files.write_json(path, description)


if __name__ == "__main__":
    write_description(Path(sys.argv[1]))
