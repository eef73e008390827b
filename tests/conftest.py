"""One thread for the whole suite, and for the processes it starts: its tensors are tiny, and threads only wait for each other."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def freed_memory_is_handed_back():
    """A command that keeps it does so for the rest of the process, in which other tests look at memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixfast.allocator._mallopt", lambda: None)
        yield
