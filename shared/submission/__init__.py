"""Files for the official evaluation servers: made from rankings, checked by the servers' rules."""

from __future__ import annotations

from shared.submission.building import Submission, build_submission
from shared.submission.checking import (
    CheckedFile,
    SubmissionProblems,
    check_content,
    check_file,
    metrics_of,
    shown,
)

__all__ = [
    "CheckedFile",
    "Submission",
    "SubmissionProblems",
    "build_submission",
    "check_content",
    "check_file",
    "metrics_of",
    "shown",
]
