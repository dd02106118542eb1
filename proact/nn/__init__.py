"""HyReLU as a module; finding and replacing the activation calls of a network."""

from proact.nn.hyrelu import HyReLU
from proact.nn.site import Site
from proact.nn.sites import find_sites, observed, replace_sites

__all__ = ["HyReLU", "Site", "find_sites", "observed", "replace_sites"]
