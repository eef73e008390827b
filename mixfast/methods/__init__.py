"""Methods: which Mixing each draws, which exit of the network it uses, how it weighs the losses. A page each."""

from mixfast.methods.method import Method, Moment
from mixfast.methods.network import HiddenMix, MultiInputNetwork
from mixfast.methods.registry import METHODS, create_method, create_model

__all__ = ["METHODS", "HiddenMix", "Method", "Moment", "MultiInputNetwork", "create_method", "create_model"]
