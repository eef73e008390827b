"""Which sources that decode while training can run on this machine."""

import torch

from mixfast.data.sources.dali_presence import why_no_dali

HAS_DALI = why_no_dali("cpu", torch.device("cpu")) is None
STREAMING = ("torch", "dali") if HAS_DALI else ("torch",)
