"""A model factory for profiles that notes what it built."""

from __future__ import annotations

BUILT: list[str] = []


class CountedModel:
    def describe(self) -> dict[str, str]:
        return {"backend": "counted"}


def counted(label: str) -> CountedModel:
    BUILT.append(label)
    return CountedModel()
