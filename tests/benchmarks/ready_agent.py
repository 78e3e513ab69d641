"""A similarity agent that opens an image database and ranks it: how long until the first ranking.

`python -m tests.benchmarks.ready_agent IMAGE_DB_FOLDER KEY` prints seconds as JSON. It opens the
database as every similarity agent does.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from agents.backends.zero_cost import ZeroCostEmbeddingModel
from agents.similarity.skills import SimilarityAgent
from agents.stores import Databases, Galleries
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import GalleryRanked, ListRequest, RankGallery
from shared.ranking import decode_list

_LISTS = (
    ListRequest("visual", "visual", "text"),
    ListRequest("textual", "textual", "text"),
    ListRequest("hybrid", "hybrid", "text"),
)
_DEPTH = 100


def main(image_db_folder: str, key: str) -> None:
    began_s = time.perf_counter()
    databases = Databases(Path(image_db_folder))
    database = databases.database(key)
    opened_s = time.perf_counter()
    clip = ZeroCostEmbeddingModel(database.manifest.dimensions)
    agent = SimilarityAgent(clip, Galleries(Path(image_db_folder)), databases)
    body = RankGallery(
        database=key,
        lists=_LISTS,
        text_sets={"text": ("a green dress with longer sleeves",)},
        text_weight=0.15,
        depth=_DEPTH,
    )
    message = RequestMessage(
        message_id="m", job_id="j", query_id="q", reply_to="xr:reply:benchmark", body=body
    )
    (answer,) = agent.answer([message])
    ranked_s = time.perf_counter()
    assert isinstance(answer, GalleryRanked), answer
    assert [len(decode_list(ranked).rows) for ranked in answer.lists] == [_DEPTH] * len(_LISTS)
    caption = database.captions[len(database) - 1]
    assert caption
    agent.answer([message])
    figures = {
        "open_s": opened_s - began_s,
        "first_ranking_s": ranked_s - opened_s,
        "next_ranking_s": time.perf_counter() - ranked_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "caption_characters": len(caption),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
