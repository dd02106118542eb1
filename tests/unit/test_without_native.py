"""Without the compiled module everything still works, says so, and flips the same bits."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, warnings
sys.modules["proact._proact"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, proact
    info = proact.build_info()
assert any("native module" in str(w.message) for w in caught), caught
assert info["native"] is False and info["native_error"] and info["isas"] == []
from proact.faults import BitFlip, inject
from proact.ops import flip_bits_, hyrelu
tensor = torch.zeros(4096, dtype=torch.int32)
print(flip_bits_(tensor, 1e-3, seed=1, trial=2, stream="w"), tensor.abs().sum().item())
model = torch.nn.Linear(3, 3)
before = model.weight.detach().clone()
with inject(model, BitFlip(0.3), "float32"):
    assert not torch.equal(model.weight, before)
assert torch.equal(model.weight, before)
from proact.nn import add_weight_range
guard = add_weight_range(model.eval(), ["weight", "bias"])
with torch.no_grad():
    model.bias[0] = float("nan")
    assert torch.isfinite(model(torch.ones(2, 3))).all()
assert guard.repairs == 1 and torch.isnan(model.bias[0])
x = torch.randn(4, 3, requires_grad=True)
hyrelu(x, torch.ones(3), "soft").sum().backward()
assert x.grad is not None
"""


def test_the_fallback_flips_the_same_bits() -> None:
    import torch

    from proact.ops import flip_bits_

    output = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True
    )
    tensor = torch.zeros(4096, dtype=torch.int32)
    flips = flip_bits_(tensor, 1e-3, seed=1, trial=2, stream="w")
    assert output.stdout.split() == [str(flips), str(tensor.abs().sum().item())]


def test_an_unknown_isa_is_refused_by_name() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import proact; proact.build_info()"],
        capture_output=True,
        text=True,
        env={"PROACT_ISA": "mmx", "PATH": ""},
        check=False,
    )
    assert run.returncode != 0
    assert "PROACT_ISA is 'mmx', but this machine and build offer: baseline" in run.stderr
