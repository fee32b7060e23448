"""`python -m bench` (make bench): every question, one after the other; 0 when all could be answered."""

from __future__ import annotations

import sys

from bench import (
    agent,
    build,
    cold,
    cold_start,
    hits,
    passthrough,
    prefetch_cost,
    registry,
    stall,
    startup,
    storm,
)


def main() -> int:
    status = 0
    for question in (
        startup,
        hits,
        passthrough,
        stall,
        storm,
        cold,
        cold_start,
        prefetch_cost,
        registry,
        agent,
        build,
    ):
        status = question.main([]) or status
        print(flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
