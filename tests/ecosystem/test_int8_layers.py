"""Are 8-bit layers of bitsandbytes faulted in the words with which they compute?"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

from proact import campaign
from proact.campaign.pickling import pickled
from proact.faults import BitFlip, ExactFlips, FaultSpace, Replay, Where, encode, inject
from proact.nn import find_sites
from proact.nn.module_copy import copy_model, copy_sharing_parameters
from proact.nn.written_state import find_written_state, restored
from proact.protect import protect

bitsandbytes = pytest.importorskip("bitsandbytes", exc_type=Exception)
pytestmark = pytest.mark.filterwarnings("default")

INPUTS, HIDDEN, CLASSES = 32, 24, 10
#: The first forward pass moves tensors from the parameter to the layer.
states = pytest.mark.parametrize("has_run", [False, True], ids=["before", "after"])


def x() -> Tensor:
    return torch.randn(16, INPUTS, generator=torch.Generator().manual_seed(1))


def network(has_run: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    options = {"has_fp16_weights": False, **options}
    layer: Any = bitsandbytes.nn.Linear8bitLt(INPUTS, HIDDEN, **options)
    layer.load_state_dict(copy.deepcopy(plain[0].state_dict()))
    model = nn.Sequential(layer.to("cpu"), *plain[1:]).eval()
    if has_run:
        model(x())
    return model


def words_and_scales(model: Any) -> tuple[Tensor, Tensor]:
    layer = model[0]
    return layer.weight.detach(), layer.weight.SCB if layer.state.SCB is None else layer.state.SCB


def stored_bytes(model: Any) -> list[bytes]:
    return [
        each.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for each in (*words_and_scales(model), *model.parameters())
    ]


def dequantised(words: Tensor, scales: Tensor) -> Tensor:
    return words.double() * scales.double()[:, None] / 127


def check_output(model: Any, output: Tensor, inputs: Tensor) -> None:
    """The output of the first layer is that of its dequantised weight.

    In eval mode, inputs are rounded to float16 and then to 127 levels of the largest of a row.
    """
    weight, bias = dequantised(*words_and_scales(model)), model[0].bias.detach().double()
    expected = inputs.double() @ weight.T + bias
    largest = inputs.double().abs().amax(1, keepdim=True)
    rounding = 2**-16 if model.training else 0.5 / 127 + 2**-10
    bound = rounding * largest * weight.abs().sum(1) + 2**-20 * expected.abs().amax()
    assert ((output.double() - expected).abs() <= bound).all()


@states
def test_words_and_scales_are_exposed(has_run: bool) -> None:
    space = FaultSpace(network(has_run), "native")
    found = {each.name: (each.stored.kind, each.word.name, each.bits) for each in space}
    assert found["0.weight"] == ("weight", "int8", HIDDEN * INPUTS * 8)
    assert found["0.weight.SCB"] == ("scale", "float32", HIDDEN * 32)
    assert space.whole == sum(bits for _, _, bits in found.values())
    only = FaultSpace(network(has_run), "native", where=Where(layer="Linear8bitLt"))
    assert [each.name for each in only] == ["0.weight", "0.weight.SCB", "0.bias"]


@states
@pytest.mark.parametrize("training", [False, True])
def test_flipped_words_change_the_output_as_dequantisation_predicts(
    has_run: bool, training: bool
) -> None:
    model = network(has_run).train(training)
    before = stored_bytes(model)
    with torch.no_grad():
        fault = BitFlip(0.05, where="0.weight")
        with inject(model, fault, "native", trial=3) as record:
            assert record.flips > 0
            output = model[0](x())
            check_output(model, output, x())
        assert stored_bytes(model) == before
        clean = model[0](x())
        check_output(model, clean, x())
        assert not torch.equal(output, clean)
    rows = {int(element) // INPUTS for element in record.faults()["element"]}
    assert set((output != clean).any(0).nonzero().flatten().tolist()) <= rows


@states
def test_flip_in_a_scale_changes_one_output(has_run: bool) -> None:
    model = network(has_run)
    before = stored_bytes(model)
    with torch.no_grad():
        fault = ExactFlips(1, where=Where(kind="scale"), bits="exponent")
        with inject(model, fault, "native") as record:
            faulty = model[0](x())
            ratio = words_and_scales(model)[1].clone()
        clean = model[0](x())
    (flip,) = record.faults()
    assert flip["tensor"] == "0.weight.SCB"
    assert (faulty != clean).any(0).nonzero().flatten().tolist() == [flip["element"]]
    ratio /= words_and_scales(model)[1]
    bias = model[0].bias.detach()
    torch.testing.assert_close(faulty - bias, (clean - bias) * ratio, rtol=1e-5, atol=1e-6)
    assert stored_bytes(model) == before


@states
def test_bytes_come_back_after_an_error(has_run: bool) -> None:
    model = network(has_run)
    before = stored_bytes(model)
    with pytest.raises(RuntimeError), inject(model, BitFlip(0.3), "native"):
        model(torch.zeros(1, INPUTS + 1))
    assert stored_bytes(model) == before


@states
def test_record_can_be_replayed(has_run: bool) -> None:
    model = network(has_run)
    with inject(model, BitFlip(0.01, where="0.weight*"), "native", trial=5) as record:
        expected = stored_bytes(model)
    assert set(record.faults()["tensor"]) == {"0.weight", "0.weight.SCB"}
    with inject(model, record.replay(), "native"):
        assert stored_bytes(model) == expected


@states
@pytest.mark.parametrize("copied", [copy_model, lambda m: cloudpickle.loads(pickled(m))])
def test_copies_and_pickles_compute_with_their_own_memory(has_run: bool, copied: Any) -> None:
    model = network(has_run)
    before, expected = stored_bytes(model), network()(x())
    result = copied(model)
    assert type(result[0].weight) is type(model[0].weight)
    assert stored_bytes(result) == before
    with inject(result, BitFlip(0.1, where="0.weight*"), "native"), torch.no_grad():
        assert stored_bytes(model) == before
        faulty = result(x())
        assert torch.equal(network()(x()), expected)
    assert not torch.equal(faulty, expected)
    assert torch.equal(result(x()), expected)
    assert result[0].weight.data_ptr() == result[0].state.CB.data_ptr()
    assert result[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert stored_bytes(model) == before
    assert torch.equal(model(x()), expected)


@states
def test_copy_computes_with_the_words_that_faults_hit(has_run: bool) -> None:
    """Moving a model to another device and back leaves its words in two places."""
    model = network(has_run)
    model[0].weight.data = model[0].weight.data.clone()
    refused = r"0\.weight \(Linear8bitLt\) computes with a copy .* on one batch first"
    with pytest.raises(ValueError, match=refused):
        FaultSpace(model, "native")
    encoded, clean = encode(model, "native"), network()(x())
    with inject(encoded, BitFlip(0.1, where="0.weight"), "native"):
        check_output(encoded, encoded[0](x()), x())
        assert not torch.equal(encoded(x()), clean)
    assert torch.equal(encoded(x()), clean)
    model(x())
    with inject(model, BitFlip(0.1, where="0.weight"), "native"):
        assert not torch.equal(model(x()), clean)


@states
def test_deep_copies_can_be_faulted(has_run: bool) -> None:
    model = copy.deepcopy(network(has_run))
    with inject(model, BitFlip(0.1, where="0.weight"), "native"):
        check_output(model, model[0](x()), x())


def test_copies_that_share_parameters() -> None:
    model = network()
    before, expected = stored_bytes(model), model(x())
    shared = copy_sharing_parameters(model)
    assert torch.equal(shared(x()), expected)
    assert shared[0].weight is model[0].weight
    assert model[0].weight.data_ptr() == model[0].state.CB.data_ptr()
    assert stored_bytes(model) == before
    with pytest.raises(ValueError, match=r"0\.weight \(Linear8bitLt\) .* run it on one batch"):
        copy_sharing_parameters(network(has_run=False))
    assert len(find_sites(model, x())) == 1


@states
def test_forward_pass_of_a_copy_writes_nothing(has_run: bool) -> None:
    model = copy_model(network(has_run).train()).eval()
    assert find_written_state(model, lambda: model(x())) == ()


def test_restored_state_is_that_before_the_first_forward() -> None:
    model, expected = network(has_run=False), network()(x())
    for _ in range(2):
        with torch.no_grad(), restored(model):
            assert torch.equal(model(x()), expected)
        assert model[0].weight.CB is not None
    assert torch.equal(model(x()), expected)


@pytest.mark.parametrize("executor", [1, 2])
def test_campaign(executor: int, tmp_path: Any) -> None:
    labels = network()(x()).argmax(1)
    tables = []
    for has_run in (False, True):
        model = network(has_run)
        before = stored_bytes(model)
        result = campaign.run(
            {"m": model},
            (x(), labels),
            [BitFlip(3e-3, where="0.weight*")],
            encoding="native",
            trials=6,
            images_per_trial=8,
            executor=executor,
            store=tmp_path / "rows.sqlite",
        )
        tables.append(result.to_pandas())
        assert stored_bytes(model) == before
        assert model[0].weight.CB is None if has_run else model[0].weight.CB is not None
    assert tables[0].equals(tables[1])
    assert tables[0]["accuracy"][0] < 1


def test_sweep_over_layers_counts_words_and_scales() -> None:
    labels = network()(x()).argmax(1)
    table = campaign.per_layer(
        network(False), (x(), labels), BitFlip(1e-2), encoding="native", trials=4
    ).to_pandas()
    first = HIDDEN * (8 * INPUTS + 32 + 32)
    second = CLASSES * 32 * (HIDDEN + 1)
    assert table["layer"].tolist() == ["0", "2"]
    assert table["share"][0] == pytest.approx(first / (first + second))


@states
def test_weight_range_guards_the_scales(has_run: bool) -> None:
    model = network(has_run)
    guarded = protect(model, "weight-range", (x(), network()(x()).argmax(1)))
    clean = guarded(x())
    assert torch.equal(clean, network()(x()))
    for scale in range(HIDDEN):  # a scale beyond the largest of its tensor
        with inject(guarded, Replay([("0.weight.SCB", scale, 30)]), "native"):
            assert (guarded(x()) - clean).abs().max() < 10


def test_embedding() -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(40, 16)
    layer = bitsandbytes.nn.Embedding8bit(40, 16)
    with pytest.raises(ValueError, match=r"weight \(Embedding8bit\) is not quantised yet"):
        FaultSpace(layer, "native")
    layer.load_state_dict(plain.state_dict())
    model: Any = nn.Sequential(layer.to("cpu"))
    tokens = torch.arange(40)
    clean = model(tokens)
    for copied in (model, copy_model(model), cloudpickle.loads(pickled(model))):
        for where in ("0.weight", "0.weight.SCB"):
            with inject(copied, ExactFlips(3, where=where), "native") as record:
                weight = copied[0].weight
                faulty = copied(tokens)
                expected = dequantised(weight.detach(), weight.SCB).float()
                torch.testing.assert_close(faulty, expected, equal_nan=True)
            width = 16 if where == "0.weight" else 1
            rows = sorted({int(e) // width for e in record.faults()["element"]})
            assert (faulty != clean).any(1).nonzero().flatten().tolist() == rows
            assert torch.equal(copied(tokens), clean)


def not_quantised() -> Any:
    return nn.Sequential(bitsandbytes.nn.Linear8bitLt(8, 8, has_fp16_weights=False))


def tied(has_run: bool) -> Any:
    model = network(has_run)
    other: Any = bitsandbytes.nn.Linear8bitLt(INPUTS, HIDDEN, has_fp16_weights=False)
    other.weight = model[0].weight
    return model.append(other)


def plain_layer() -> Any:
    layer = nn.Linear(INPUTS, HIDDEN)
    layer.weight = network()[0].weight
    return nn.Sequential(layer)


def without_scales() -> Any:
    model = network()
    model[0].state.SCB = None
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_quantised, r"0\.weight.* \(Linear8bitLt\) is not quantised yet: call to\(device\)"),
        (lambda: network(False, has_fp16_weights=True), "make it with has_fp16_weights=False"),
        (lambda: network(threshold=6.0), "set state.threshold of the layer to 0"),
        (without_scales, "lacks the float32 scales"),
        (lambda: tied(False), r"0\.weight.* shares an 8-bit parameter with another layer"),
        (lambda: tied(True), r"0\.weight.* shares an 8-bit parameter with another layer"),
        (lambda: pickle.loads(pickle.dumps(network())), r"0\.weight.* holds a plain parameter"),
        (lambda: pickle.loads(pickle.dumps(network(False))), r"0\.weight.* a plain parameter"),
        (plain_layer, r"0\.weight.* \(Linear\) holds an 8-bit parameter"),
    ],
)
def test_what_faults_cannot_hit_is_refused(make: Any, message: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=f"{message}.*, or exclude the module with where="):
        FaultSpace(model, "native")
    for where in ("0.weight", Where(kind="scale"), Where(kind="weight")):
        with pytest.raises(ValueError, match=message):
            inject(model, BitFlip(0.1, where=where), "native").__enter__()
    with pytest.raises(ValueError, match=message):
        inject(model, Replay([("0.weight", 0, 0)]), "native").__enter__()
    with inject(model, BitFlip(0.5, where="0.bias"), "native") as record:
        assert record.flips > 0
