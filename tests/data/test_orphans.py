"""Processes that decode images do not outlive the one that started them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Prints the ids of the processes that decode, and then waits in the middle of an epoch.
STREAMING = """
import multiprocessing, sys, time
import torch
from mixfast.data import SourceOptions, open_images
from mixfast.data.sources.interface import Request

if __name__ == "__main__":
    (data,) = open_images(f"folder:{sys.argv[1]}", ("train",), options=SourceOptions("torch", workers=2))
    stream = data.stream(lambda step: Request(torch.arange(4)), range(1000), 4)
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def lives(process_id: int) -> bool:
    """Whether it runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_processes_end_with_one_that_is_killed(image_folder, tmp_path: Path) -> None:
    folder = image_folder({"train/cat": 4, "train/dog": 4, "test/cat": 1, "test/dog": 1}, size=(8, 8))
    (tmp_path / "streaming.py").write_text(STREAMING)
    command = [sys.executable, str(tmp_path / "streaming.py"), str(folder)]
    environment = {**os.environ, "MIXFAST_BACKEND": "reference"}  # nothing to build: the cache is a new one
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    children = [int(number) for number in process.stdout.readline().split()]
    try:
        assert len(children) == 2 and all(map(lives, children))
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while any(map(lives, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(lives, children))
    finally:
        for child in filter(lives, children):
            os.kill(child, signal.SIGKILL)
