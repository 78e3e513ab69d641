"""Writes the OpenAPI description into a file: `python -m gateway.description FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.app import create_app
from gateway.redis_client import gateway_redis
from shared import atomic_files
from shared.settings import Settings


def write_description(path: Path) -> None:
    """As every gateway serves it at /openapi.json, without the program's version."""
    settings = Settings()
    description = create_app(settings, gateway_redis(settings)).openapi()
    description["info"]["version"] = "0"
    atomic_files.write_json(path, description)


if __name__ == "__main__":
    write_description(Path(sys.argv[1]))
