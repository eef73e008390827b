"""The ``mixfast`` command and ``python -m mixfast``: what must be settled before torch is loaded, then the command."""

from __future__ import annotations

import os
import sys

# About two milliseconds: longer than nearly all gaps between the parallel parts of a training step. GNU OpenMP's own choice is six
# times that after every one of them, on cores that the threads which decode images are waiting for.
SPINS = "50000"


def main() -> int:
    """Runs one command; returns its exit status."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from mixfast.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
