"""Asks a handler so that every request gets its answer, whatever the handler does."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from shared.bus.replying import Answer as Answer
from shared.bus.replying import answers_of_one_length
from shared.contracts.messages import Failure, RequestMessage, run_of
from shared.errors import TransientError, XRError
from shared.logs import about

Handler = Callable[[Sequence[RequestMessage]], Awaitable[Sequence[Answer]]]

logger = logging.getLogger(__name__)


class EngineDeadError(XRError):
    """Raised by a handler whose model is gone: the consumer stops and acknowledges nothing."""


async def answers_to(requests: Sequence[RequestMessage], handler: Handler) -> Sequence[Answer]:
    """One answer per request, in their order.

    A batch on which the handler raises is halved, and each half asked, until only the guilty
    requests fail; a batch that was too large for the memory comes through in parts the same way.

    Raises: EngineDeadError: from the handler.
    """
    try:
        return answers_of_one_length(await handler(requests), len(requests))
    except EngineDeadError:
        raise
    except Exception as error:
        trouble = f"{type(error).__name__}: {error}"
        if len(requests) == 1:
            with about(run=run_of(requests[0].job_id), query=requests[0].query_id):
                logger.warning("request %s failed", requests[0].message_id, exc_info=error)
            return [Failure(trouble, retryable=isinstance(error, TransientError))]
    # No longer within `except`: the traceback holds on to the memory that the failed batch took.
    middle = len(requests) // 2
    logger.warning("a batch of %d failed (%s): trying its halves", len(requests), trouble)
    first = await answers_to(requests[:middle], handler)
    return [*first, *await answers_to(requests[middle:], handler)]
