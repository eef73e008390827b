"""What changes over the epochs. Epochs are whole numbers and the first one is 1, as in the thesis's algorithms."""

from __future__ import annotations

from mixfast.mixing._arguments import check_count, check_probability


def patch_probability(probability: float, epoch: int, epochs: int) -> float:
    """Probability of patch mixing in an epoch: constant, then falling linearly to 0 over the last twelfth.

    Source: algorithm A.6. Constant up to and including epoch ``11/12 * epochs``, then
    ``probability * 12 * (1 - epoch / epochs)``, which is 0 in the last epoch, however few there are.

    Args:
        probability: p, in 0..1 (0.5 in the thesis).
        epoch: current epoch, from 1.
        epochs: number of epochs.

    Raises:
        ValueError: a number out of range.
    """
    check_probability("probability", probability)
    check_count("epochs", epochs, 1)
    if not 1 <= epoch <= epochs:
        raise ValueError(f"epoch must lie in 1..{epochs} (epochs), got {epoch!r}")
    if 12 * epoch <= 11 * epochs:
        return probability
    return probability * 12 * (epochs - epoch) / epochs


def unmix_fade(epoch: int, fade_epochs: int) -> float:
    """The r of fadeout unmixing, ``min(1, epoch / fade_epochs)`` (thesis 3.4): 0 unmixes fully, 1 not at all.

    Args:
        epoch: current epoch, from 1.
        fade_epochs: the epoch from which nothing is unmixed (100 in the thesis); 0 never fades.

    Raises:
        ValueError: a number out of range.
    """
    check_count("epoch", epoch, 1)
    check_count("fade_epochs", fade_epochs, 0)
    return min(1.0, epoch / fade_epochs) if fade_epochs else 0.0
