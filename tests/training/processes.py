"""Starting several processes on this machine, as a person does: with torchrun."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def torchrun(count: int, *command: object) -> subprocess.Popen[str]:
    """``command`` is what follows torchrun's own options: ``-m mixfast ...``, or a file. Output and errors are one stream."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    words = [*launcher, *map(str, command)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str], seconds: float = 300) -> str:
    """The output of a command that must succeed."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes
        raise
    assert process.returncode == 0, output
    return output


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The process ids that torchrun started, in the order of their ranks; it must have started them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(entry[5:]): int(child) for entry in environment if entry.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)
