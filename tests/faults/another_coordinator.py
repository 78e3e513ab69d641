"""`python -m tests.faults.another_coordinator RUN_ID`: coordinates a run beside whoever has it."""

from __future__ import annotations

import logging
import sys

from broker.benchmark_job import run_benchmark

if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    print(run_benchmark(sys.argv[1]))
