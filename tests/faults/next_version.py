"""`python -m tests.faults.next_version MODULE ARGUMENT...`: a program of the next schema version.

It reads messages of one version more, and its requests need a reader of that version; its replies
have not changed, so that older programs read them.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

_MESSAGES = "shared.contracts.messages"


def become_next_version() -> int:
    """Load the module of messages with its version raised; returns that version."""
    spec = importlib.util.find_spec(_MESSAGES)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text()
    found = re.search(r"^SCHEMA_VERSION = (\d+)$", source, re.MULTILINE)
    assert found is not None, f"{spec.origin} has no line SCHEMA_VERSION = <number>"
    version = int(found[1])
    head, replies, tail = source.partition("class ReplyMessage(")
    replies += tail.replace("schema_version: int = SCHEMA_VERSION",
                            f"schema_version: int = {version}", 1)  # fmt: skip
    source = head.replace(found[0], f"SCHEMA_VERSION = {version + 1}") + replies
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MESSAGES] = module
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    sys.modules["shared.contracts"].messages = module  # type: ignore[attr-defined]
    return version + 1


if __name__ == "__main__":
    become_next_version()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
