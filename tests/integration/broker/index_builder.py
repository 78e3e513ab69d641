"""A builder of an image database as a process of its own: tells its progress, line by line."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from broker.agents_client import AgentsClient, tag_of
from broker.image_index import build_image_database
from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.galleries import open_gallery
from shared.image_database_writer import ImageDatabaseWriter
from shared.settings import load_settings

CAPTIONER, CLIP = {"checkpoint": "captioner"}, {"checkpoint": "clip"}
CHUNK_ROWS = 4


async def main(gallery_key: str) -> None:
    settings = load_settings()
    gallery = open_gallery(settings.galleries_folder, gallery_key)
    writer = ImageDatabaseWriter(settings.image_db_folder, gallery, CAPTIONER, CLIP, CHUNK_ROWS)
    job = f"index-{os.getpid()}"
    redis = connect(settings.redis_url)
    bus = BusClient(redis, keys.reply(tag_of(job, 1)))
    async with AgentsClient(bus, job, 1, settings) as agents:
        await build_image_database(
            gallery, agents.ask, writer, lambda done, total, _: print(done, total, flush=True)
        )
    await bus.aclose()
    await redis.aclose()
    print("finished", flush=True)


def environment(redis_url: str, home: Path) -> dict[str, str]:
    """Of a builder whose files are in `home`."""
    return {**os.environ, "XR_REDIS_URL": redis_url, "XR_HOME": str(home)}


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
