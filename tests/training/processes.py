"""Starting several processes on this machine, as a person does: with torchrun."""

from __future__ import annotations

import subprocess
import sys


def torchrun(count: int, *command: object) -> subprocess.Popen[str]:
    """``command`` is what follows torchrun's own options: ``-m mixfast ...``, or a file. Output and errors are one stream."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    words = [*launcher, *map(str, command)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str], seconds: float = 600) -> str:
    """The output of a command that must succeed."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes
        raise
    assert process.returncode == 0, output
    return output
