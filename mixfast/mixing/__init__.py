"""What draws a ``Mixing``: mask families, mixing ratios, schedules over the epochs, and label rules.

Everything is drawn for a whole batch at once, on the device, from one generator, without the host waiting.
"""

from mixfast.mixing.draw import all_from, cut_mixing, linear_mixing, patch_or_linear, single_mixing, sum_mixing
from mixfast.mixing.msda import PIXEL_MIXINGS, draw_pixel_mixing, keep_main_predominant, visible_share
from mixfast.mixing.patch_cut import majority, patch_cut_mixing
from mixfast.mixing.ratios import draw_ratios, loss_weights
from mixfast.mixing.schedule import patch_probability, unmix_fade
from mixfast.mixing.zones import MASKS, draw_zone

__all__ = [
    "MASKS",
    "PIXEL_MIXINGS",
    "all_from",
    "cut_mixing",
    "draw_pixel_mixing",
    "draw_ratios",
    "draw_zone",
    "keep_main_predominant",
    "linear_mixing",
    "loss_weights",
    "majority",
    "patch_cut_mixing",
    "patch_or_linear",
    "patch_probability",
    "single_mixing",
    "sum_mixing",
    "unmix_fade",
    "visible_share",
]
