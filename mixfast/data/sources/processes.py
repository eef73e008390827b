"""How the processes of a DataLoader are started, and end."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext


def start_method() -> BaseContext:
    """Processes that inherit nothing from this one.

    A copy of it, made by fork, would have the locks of its threads (OpenMP's, DALI's) as they were at that moment, held for
    ever, and its signal handlers: it can hang, and then does not end when told to.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # What takes long to import is imported once, by the server that forks them. Decoding needs no operators.
    context.set_forkserver_preload(["mixfast.data.sources.torch_source"])
    with _environment("MIXFAST_BACKEND", "reference"):
        forkserver.ensure_running()
    return context


def end_with_parent(worker_id: int) -> None:
    """Called in a process of a DataLoader: it ends when the one that started it is gone, killed too.

    torch watches the process id of the parent, which is the fork server's; and that server lives as long as one of its
    children does, so that they would keep each other alive for ever.
    """

    def wait() -> None:
        connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="mixfast parent", daemon=True).start()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """While entered, one variable has another value; the rest stays as it is, for this process has threads that read it."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
