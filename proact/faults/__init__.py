"""Faults in stored parameters and activations: kinds, selectors, the fault space, injection."""

from proact.faults.activation_hooks import observe_activations
from proact.faults.activations import ActivationFlip
from proact.faults.encode import EncodingReport, encode, encoding_report
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.fault import Fault, fault_from_dict, fault_from_json
from proact.faults.injection import inject
from proact.faults.injector import Injector
from proact.faults.kinds import BitFlip, Burst, ExactFlips, StuckAt
from proact.faults.mixed_encoding import MixedEncoding
from proact.faults.record import Record
from proact.faults.replay import FaultSite, Replay
from proact.faults.selectors import Where
from proact.faults.space import FaultSpace
from proact.faults.strata import BitFlipStratum
from proact.faults.verification import Verification, verify

__all__ = [
    "ActivationFlip",
    "BitFlip",
    "BitFlipStratum",
    "Burst",
    "EncodingReport",
    "ExactFlips",
    "ExposedTensor",
    "Fault",
    "FaultSite",
    "FaultSpace",
    "Injector",
    "MixedEncoding",
    "Record",
    "Replay",
    "StuckAt",
    "Verification",
    "Where",
    "encode",
    "encoding_report",
    "fault_from_dict",
    "fault_from_json",
    "inject",
    "observe_activations",
    "verify",
]
