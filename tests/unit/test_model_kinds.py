"""Each kind of model in each use: it works as the plain model does, or is refused by name.

The table in docs/models.md is made of the outcomes that are tested here.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import proact
from proact import campaign, protect
from proact.faults import ActivationFlip, BitFlip, inject

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(7))
Y = torch.arange(40) % 3
FAULT = BitFlip(2e-2)
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.act(self.first(x)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def with_attribute(thing: Any) -> nn.Module:
    model = net()
    vars(model.act)["thing"] = thing
    return model


def wrapped() -> nn.Module:
    model = net()
    original = model.forward
    model.forward = functools.wraps(original)(lambda x: original(x))  # noqa: PLW0108
    return model


def wrapped_layers() -> nn.Module:
    model = net()
    for layer in model.children():
        original = layer.forward
        layer.forward = lambda x, original=original: original(x)
    return model


def hooked() -> nn.Module:
    model = net()
    last = model.last
    model.register_forward_hook(lambda module, args, output: output + last.bias)
    return model


def old_weight_norm() -> nn.Module:
    model = net()
    model.first = torch.nn.utils.weight_norm(model.first)
    model(X)
    return model


def parametrized() -> nn.Module:
    model = net()
    model.first = parametrizations.weight_norm(model.first)
    return model


def pruned() -> nn.Module:
    model = net()
    prune.l1_unstructured(model.first, "weight", 0.5)
    model(X)
    return model


def caching() -> nn.Module:
    class Caching(Net):
        def forward(self, x: Tensor) -> Any:
            self.features = self.act(self.first(x))
            return self.last(self.features)

    torch.manual_seed(0)
    model = Caching().eval()
    model(X)
    return model


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 3)).eval()


def exported() -> nn.Module:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(net(), (X,), dynamic_shapes=({0: batch},)).module()


def compiled_layer() -> nn.Module:
    model = net()
    model.first.forward = torch.compile(model.first.forward, backend="eager")
    return model


def compiled_in_place() -> nn.Module:
    model = net()
    model.compile(backend="eager")
    return model


class Membrane(Net):
    """Its state moves with each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: Tensor) -> Any:
        self.count += 1
        return super().forward(x) * self.count


def stateful() -> nn.Module:
    torch.manual_seed(0)
    return Membrane().eval()


def random() -> nn.Module:
    class Random(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(F.dropout(x, 0.5, training=True))

    torch.manual_seed(0)
    return Random().eval()


def batch_statistics() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    return nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 3)).eval()


def packed() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    made: nn.Module = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    return made


def transposed() -> nn.Module:
    model = net()
    for layer in (model.first, model.last):
        layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    return model


def beside_sparse() -> nn.Module:
    model = net()
    model.register_buffer("adjacency", torch.eye(4).to_sparse_coo())
    return model


class Kind(NamedTuple):
    """A kind of model, with a part of the message where it is refused, or None where it works."""

    make: Callable[[], Any]
    inject: str | None = None
    activations: str | None = None
    campaign: str | None = None
    clips: str | None = None
    guard: str | None = None


SCRIPT = "is a TorchScript module: give the nn.Module"
EXPORT = "is the module of a torch.export program: give the nn.Module"
COMPILED = "needs hooks, which a compiled graph does not run, and .* is compiled"
LAZY = "0.weight has no shape yet"
PACKED = r"0 \(Linear\) keeps weights in a packed form"
NOTHING = "has no parameters to protect"
SPARSE = "adjacency must have plain memory .*sparse_coo"
FILE = "'thing' of 'act' is a TextIOWrapper, which cannot be copied"

KINDS = {
    "Forward replaced on the instance": Kind(wrapped),
    "Forward of layers replaced": Kind(wrapped_layers),
    "Hooks that are closures": Kind(hooked),
    "`nn.DataParallel`": Kind(lambda: nn.DataParallel(net())),
    "Old `weight_norm`": Kind(old_weight_norm),
    "Parametrizations": Kind(parametrized),
    "`prune`": Kind(pruned),
    "Features kept in an attribute": Kind(caching),
    "Lazy layers without a shape": Kind(lazy, LAZY, LAZY, LAZY, LAZY, LAZY),
    "Locks as attributes": Kind(lambda: with_attribute(threading.Lock())),
    "Open files, generators, sockets": Kind(
        lambda: with_attribute(open("/dev/null")),  # noqa: SIM115
        campaign=FILE,
        clips=FILE,
        guard=FILE,
    ),
    "`torch.jit.script`": Kind(
        lambda: torch.jit.script(net()), activations=SCRIPT, clips=SCRIPT, guard=SCRIPT
    ),
    "`torch.jit.trace`": Kind(
        lambda: torch.jit.trace(net(), X), activations=SCRIPT, clips=SCRIPT, guard=SCRIPT
    ),
    "`torch.export`": Kind(exported, activations=EXPORT, clips=EXPORT, guard=EXPORT),
    "`torch.fx.symbolic_trace`": Kind(lambda: torch.fx.symbolic_trace(net())),
    "`torch.compile(model)`": Kind(
        lambda: torch.compile(net(), backend="eager"), activations=COMPILED, guard=COMPILED
    ),
    "`layer.forward = torch.compile(...)`": Kind(compiled_layer, activations=COMPILED),
    "`model.compile()`": Kind(compiled_in_place, activations=COMPILED),
    "Packed int8 of `torch.ao`": Kind(
        packed, PACKED, campaign=PACKED, clips=NOTHING, guard=NOTHING
    ),
    "Transposed and channels-last weights": Kind(
        transposed, "first.weight must be contiguous.*encode"
    ),
    "Sparse tensors that faults may hit": Kind(beside_sparse, SPARSE, campaign=SPARSE),
    "State that a forward pass writes": Kind(stateful),
    "Random outputs": Kind(
        random, campaign="draws at random in eval mode", clips="a forward that draws at random"
    ),
    "Batch statistics at test time": Kind(
        batch_statistics, campaign="'1' .BatchNorm1d., and for one image.*unit='batch'"
    ),
}
#: Their answers differ from run to run, or in the batches of a profile.
IN_OTHER_BATCHES = ("Random outputs", "Batch statistics at test time")
USES = ("inject", "activations", "campaign", "clips", "guard")


def use(what: str, model: nn.Module) -> Any:
    options = {"trials": 6, "images_per_trial": "all", "executor": 1}
    if what in ("inject", "activations"):
        fault = FAULT if what == "inject" else ActivationFlip(2e-2)
        with torch.no_grad(), inject(model, fault) as record:
            output = model(X)
        assert record.flips if what == "inject" else record.activation_flips
        return output
    if what == "campaign":
        return campaign.run({"m": model}, (X, Y), [FAULT], **options).cells[0]
    return protect.protect(model, "ranger" if what == "clips" else "weight-range", (X, Y))


@pytest.mark.filterwarnings("ignore")  # of torch, about old functions
@pytest.mark.parametrize("what", USES)
@pytest.mark.parametrize("name", KINDS)
def test_it_works_or_is_refused_by_name(name: str, what: str) -> None:
    kind = KINDS[name]
    model, refusal = kind.make(), getattr(kind, what)
    if refusal is not None:
        with pytest.raises((ValueError, TypeError, proact.ProactError), match=refusal):
            use(what, model)
        return
    result = use(what, model)
    if what == "campaign":
        assert result.flips > 1
        assert result.value.estimate < result.clean or result.clean < 0.5
    elif what in ("clips", "guard") and name not in IN_OTHER_BATCHES:
        with torch.no_grad():
            expected = kind.make()(X)
            torch.testing.assert_close(result(X), expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


SAME_AS_PLAIN = [
    "Forward replaced on the instance",
    "Forward of layers replaced",
    "Features kept in an attribute",
    "Locks as attributes",
    "`torch.jit.script`",
    "`torch.jit.trace`",
    "`torch.fx.symbolic_trace`",
    "`layer.forward = torch.compile(...)`",
    "`model.compile()`",
    "`torch.export`",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAME_AS_PLAIN)
def test_it_has_the_rows_of_the_plain_model(name: str) -> None:
    """The names of the tensors are those of the plain model, and so are the faults."""
    options = {"trials": 10, "images_per_trial": "all", "executor": 1}
    labels = net()(X).argmax(1)
    variants = {"plain": net(), "other": KINDS[name].make()}
    result = campaign.run(variants, (X, labels), [FAULT], **options)
    plain, other = (
        [(row.flips, row.value) for row in result.rows(variant, FAULT)] for variant in variants
    )
    assert plain == other
    assert min(value for _, value in plain) < 0.9
    torch._dynamo.reset()


def rows_of_the_page() -> dict[str, list[str]]:
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if (
            line.startswith("| ")
            and len(cells) == len(USES) + 1
            and cells[0] not in ("Model", "---")
        ):
            found[cells[0]] = cells[1:]
    return found


def test_the_page_has_a_row_for_each_kind() -> None:
    expected = {
        name: ["works" if getattr(kind, what) is None else "refused" for what in USES]
        for name, kind in KINDS.items()
    }
    assert rows_of_the_page() == expected


if __name__ == "__main__":  # prints the table
    with warnings.catch_warnings():
        for name, kind in KINDS.items():
            print(
                "|",
                name,
                "|",
                " | ".join("works" if getattr(kind, what) is None else "refused" for what in USES),
                "|",
            )
