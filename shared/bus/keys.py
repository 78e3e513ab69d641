"""Every Redis key of the bus, one line each; nothing else in the project spells them out.

xr:<agent>:hi          stream  requests of interactive searches, served first
xr:<agent>:lo          stream  requests of benchmark runs and of indexing
xr:<agent>:dead        stream  requests given up after too many deliveries, kept for a person
xr:<agent>:parked      stream  bytes from a request stream that are no valid message
xr:reply:<who>         list    replies to one coordinator (or search), expiring when nobody reads
xr:parked-replies      stream  bytes from a reply list that are no valid message
xr:cancel:<job_id>     string  present while a job is cancelled
xr:agents              set     names of consumers that have ever sent a heartbeat
xr:agents:<consumer>   string  one consumer's heartbeat (msgpack), gone soon after its last

Entries of the request, dead and parked streams hold `m` (the message's bytes) and `j` (its job id);
dead and parked ones also `reason`, `deliveries` and `stream`, where they came from. Acknowledged
entries are deleted, so the length of a request stream is what waits plus what is being worked on.
The scripts touch keys of several slots: one Redis (with replicas, Sentinel), not a cluster.
"""

from __future__ import annotations

from typing import Literal

Priority = Literal["hi", "lo"]

GROUP = "agents"
HANDED_BACK = "handed-back"
"""The consumer, in name only, of messages that a stopping process let go of."""
SHELF_PREFIX = "newer:"
"""newer:<version> holds, in name only, what waits for a worker that reads that schema version."""
PREFERRED_PREFIX = "for:"
"""for:<consumer> holds, in name only, what others have left to that consumer."""
AGENTS = "xr:agents"
PARKED_REPLIES = "xr:parked-replies"
CANCEL_PREFIX = "xr:cancel:"
REPLY_PREFIX = "xr:reply:"


def requests(agent: str, priority: Priority) -> str:
    return f"xr:{agent}:{priority}"


def request_streams(agent: str) -> tuple[str, str]:
    """Both request streams of an agent, in the order they are served."""
    return requests(agent, "hi"), requests(agent, "lo")


def dead(agent: str) -> str:
    return f"xr:{agent}:dead"


def parked(agent: str) -> str:
    return f"xr:{agent}:parked"


def reply(who: str) -> str:
    return f"{REPLY_PREFIX}{who}"


def shelf(version: int) -> str:
    return f"{SHELF_PREFIX}{version}"


def preferred_shelf(consumer: str) -> str:
    return f"{PREFERRED_PREFIX}{consumer}"


def cancel(job_id: str) -> str:
    return f"{CANCEL_PREFIX}{job_id}"


def heartbeat(consumer: str) -> str:
    return f"{AGENTS}:{consumer}"
