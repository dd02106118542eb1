"""Faults in stored parameters: encodings, fault kinds, the fault space, injection."""

from proact.faults.encodings import Encoding, encode, encoding_named
from proact.faults.injection import Injector, Record, inject
from proact.faults.kinds import BitFlip
from proact.faults.space import ExposedTensor, fault_space

__all__ = [
    "BitFlip",
    "Encoding",
    "ExposedTensor",
    "Injector",
    "Record",
    "encode",
    "encoding_named",
    "fault_space",
    "inject",
]
