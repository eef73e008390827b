"""Methods: which Mixing each draws, which exit of the network it uses, how it weighs the losses. A page each."""

from mixfast.methods.method import Method, Moment, Network
from mixfast.methods.mixvit_network import MixViTNetwork
from mixfast.methods.network import HiddenMix, MultiInputNetwork
from mixfast.methods.registry import METHODS, create_method, create_model
from mixfast.methods.token_network import TokenNetwork

__all__ = [
    "METHODS",
    "HiddenMix",
    "Method",
    "MixViTNetwork",
    "Moment",
    "MultiInputNetwork",
    "Network",
    "TokenNetwork",
    "create_method",
    "create_model",
]
