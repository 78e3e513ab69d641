"""From what a consumer has taken to a request it may work on."""

from __future__ import annotations

from shared.bus import keys
from shared.bus.claims import Claim
from shared.contracts.messages import RequestMessage, decode
from shared.errors import DecodeError


def read_request(claim: Claim, reads_version: int) -> RequestMessage:
    """The request in a consumer's hand.

    Raises:
        NewerVersionError: it needs a reader of a newer version than `reads_version`.
        DecodeError: no request, or one whose answer would go to a key of others.
    """
    request = decode(claim.payload, RequestMessage, reads_version)
    if not request.reply_to.startswith(keys.REPLY_PREFIX):
        raise DecodeError(
            claim.payload, f"reply_to is {request.reply_to[:80]!r}, no list {keys.REPLY_PREFIX}*"
        )
    return request


def has_expired(claim: Claim, request: RequestMessage, now_ms: int) -> bool:
    """Whether nobody waits for the answer any longer.

    Both times are Redis' own: neither the sender's clock nor ours matters.
    """
    limit_s = request.expires_after_s
    return limit_s is not None and now_ms - claim.queued_ms > limit_s * 1000
