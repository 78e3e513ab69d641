"""Examples of what the HTTP API takes and gives, for its description: record -> examples."""

from __future__ import annotations

from typing import Any

_KEY = "5f0c1d7e9ab84c36a2f41b6d08e3c975"
_DATABASE = "c1a9e7405bd24f8893e6720fd4518ab3"
_RUN = "demo_val~20260314-101500-top50"

_PROGRESS = {
    "phase": "queries",
    "done": 120,
    "total": 400,
    "failed": 1,
    "rate_per_s": 8.4,
    "seconds": 14.3,
}
_RUNNING = {
    "id": _RUN,
    "dataset": "demo",
    "split": "val",
    "name": "top50",
    "state": "running",
    "phase": "queries",
    "progress": [_PROGRESS],
    "run_folder": f"/data/xr/runs/{_RUN.replace('~', '/')}",
    "submitted_at": "2026-03-14T10:15:00+00:00",
}
_GALLERY = {
    "key": _KEY,
    "name": "holidays",
    "state": "ready",
    "images": 1200,
    "failed_images": 1,
    "captions": 1199,
    "databases": [
        {"key": _DATABASE, "state": "finished", "captions": 1199, "failed_images": 1},
    ],
    "folder": "pictures/2024",
    "benchmark_id": "folder_pictures_2024_all~20260314-094100-index",
    "size_bytes": 8_400_000,
    "last_used": "2026-03-14T10:02:11+00:00",
}
_FOUND = {
    "gallery": _KEY,
    "database": _DATABASE,
    "stage": "verified",
    "hits": [
        {
            "rank": 1,
            "image_id": "harbour/0042.jpg",
            "caption": "a harbour at night, boats with their lights on",
            "coarse_rank": 3,
            "coarse_score": 0.0451,
            "ranks": {"v1.hybrid": 2, "v2.hybrid": 9, "aug.hybrid": 4},
            "image_answers": [0.98, 0.95],
            "caption_answers": [0.97, 0.9],
            "image_score": 1.0,
            "caption_score": 1.0,
            "final_score": 0.0451,
        }
    ],
    "imagination": {
        "reference_caption": "a harbour by day, a dog on the quay",
        "text": {
            "edits": [
                {"kind": "modify", "subject": "by day", "change": "at night"},
                {"kind": "remove", "subject": "a dog", "change": "gone"},
            ],
            "captions": ["a harbour at night", "a harbour at night, no dog", "boats at night"],
        },
        "image": {
            "existent": ["a harbour", "night"],
            "nonexistent": ["a dog"],
            "caption": "a harbour at night",
        },
    },
    "description": "a harbour at night",
    "propositions": [
        {"question": "Is it night?", "expected": True},
        {"question": "Is there a dog?", "expected": False},
    ],
    "lists": [
        {"name": "v1.hybrid", "weight": 1.0},
        {"name": "v2.hybrid", "weight": 1.0},
        {"name": "aug.hybrid", "weight": 1.0},
    ],
    "complete": True,
    "timings": {"imagine_text": 0.31, "rank": 0.02, "propose": 0.24, "verify_image": 0.52},
    "seconds": 1.21,
}

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "BenchmarkRequest": [
        {"dataset": "demo", "split": "val", "name": "top50", "knobs": {"top_k": 50}},
        {"dataset": "folder:pictures/2024", "split": "all", "limit": 100},
    ],
    "BenchmarkView": [_RUNNING],
    "BenchmarkList": [{"benchmarks": [_RUNNING], "total": 1}],
    "SearchRequest": [
        {
            "gallery": "holidays",
            "reference_image_id": "harbour/0007.jpg",
            "modification_text": "at night and without the dog",
            "k": 10,
        },
        {
            "gallery": "holidays",
            "modification_text": "a quiet beach",
            "negative_text": "people",
            "knobs": {"stages": ["coarse"]},
        },
    ],
    "SearchView": [_FOUND],
    "GalleryRequest": [{"name": "holidays", "folder": "pictures/2024"}],
    "GalleryView": [_GALLERY],
    "GalleryList": [{"galleries": [_GALLERY], "total": 1}],
    "GalleryImageList": [
        {
            "gallery": _KEY,
            "images": [
                {
                    "row": 0,
                    "image_id": "harbour/0007.jpg",
                    "width": 1600,
                    "height": 1200,
                    "caption": "a harbour by day, a dog on the quay",
                }
            ],
            "total": 1200,
            "next_page_token": "1",
        }
    ],
    "UploadView": [
        {
            "id": "9b1f6e0d3c5a4278b1c0d9e8f7a65432",
            "width": 1600,
            "height": 1200,
            "media_type": "image/jpeg",
            "size_bytes": 412_345,
        }
    ],
    "RunList": [
        {
            "runs": [
                {
                    "id": _RUN,
                    "dataset": "demo",
                    "split": "val",
                    "name": "top50",
                    "state": "finished",
                    "submitted_at": "2026-03-14T10:15:00+00:00",
                    "metrics": {"recall@1": 0.62, "recall@5": 0.88},
                    "counts": {"queries": 400, "failed": 1},
                }
            ],
            "total": 1,
        }
    ],
    "Problem": [
        {
            "type": "urn:xr:problem:unknown-gallery",
            "title": "Not Found",
            "status": 404,
            "detail": "no gallery 'holidays'; GET /v1/galleries lists the known ones",
            "instance": "/v1/galleries/holidays",
            "request_id": "3f0d8a5cf2f34a0bb0f0c6a5f8f6f7aa",
        }
    ],
}
