"""The HyReLU module, and finding and replacing the activations of a network."""

from proact.nn.hyrelu import HyReLU
from proact.nn.sites import Site, find_sites, replace_sites

__all__ = ["HyReLU", "Site", "find_sites", "replace_sites"]
