"""What networks cost, counted on the meta device and held to closed forms: ``mixfast flops``.

The convention, everywhere here: a multiply-add is one term of a matrix product or convolution, whichever operator does it.
Sums, normalisations, activations, softmaxes, weights multiplied with weights (which does not grow with the batch) and the
optimiser are no products. torch's FLOPs are two a multiply-add.
"""

from mixfast.flops.counting import Cost, Tally, count, inference_flops, training_flops

__all__ = ["Cost", "Tally", "count", "inference_flops", "training_flops"]
