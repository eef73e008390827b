"""One thread for the whole suite, and for the processes it starts: its tensors are tiny, and threads only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
