"""The Redis keys of runs, one line each; those of the bus are in `shared.bus.keys`."""

from __future__ import annotations

QUEUE_NAME = "bench"
"""The RQ queue of benchmark jobs; one job = one run."""


def run_key(run_id: str) -> str:
    """Hash: state, phase, done, total, failed, rate, progress (JSON), error. A week."""
    return f"xr:run:{run_id}"


def owner_key(run_id: str) -> str:
    """String: who owns the run; expires with the lease."""
    return f"xr:run:{run_id}:owner"


def epoch_key(run_id: str) -> str:
    """Counter: how many owners the run has had."""
    return f"xr:run:{run_id}:epoch"


def cancel_key(run_id: str) -> str:
    """Flag: the run is to stop. A week."""
    return f"xr:run:{run_id}:cancel"


def lost_key(run_id: str) -> str:
    """Flag: the run was seen with neither owner nor job. A minute."""
    return f"xr:run:{run_id}:lost"


def submission_key(idempotency_key: str) -> str:
    """String: the run id a submission with this idempotency key got. A day."""
    return f"xr:submission:{idempotency_key}"
