"""Files in the format of MNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np


def write_idx(file: Path, values: np.ndarray) -> None:
    """`values` (uint8) as IDX, compressed where the name ends in .gz."""
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    content = header + values.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
