"""Does ecc code a model in its own memory, and does its scrub follow the codes word by word?"""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard_models import CODES, DTYPES, IMAGES, guard_of, network, run
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact import ProactError, _native, campaign, protect
from proact.encodings.codes import code_named
from proact.faults import BitFlip, FaultSpace, Replay, inject
from proact.nn import (
    error_correction_of,
    find_sites,
    remove_error_correction,
    scrub,
    weight_range_of,
    without_error_correction,
    without_weight_range,
)
from proact.nn.tensor_inventory import stored_tensors


def words_of(tensor: Tensor) -> np.ndarray:
    flat = tensor.detach().contiguous().reshape(-1)
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    words = flat.view(integers[tensor.element_size()]).numpy()
    return words.view(f"u{tensor.element_size()}").astype(np.uint64)


def by_definition(code: str, tensor: Tensor, replacement: float) -> tuple[np.ndarray, int, int]:
    """The words after a scrub, with the counts of corrected and of detected codewords."""
    words = words_of(tensor)
    fitted = code_named(code, 8 * tensor.element_size())
    spare = int(words_of(torch.tensor([replacement], dtype=torch.float64).to(tensor.dtype))[0])
    full = len(words) - len(words) % fitted.code.words
    parts = [(fitted.code, slice(0, full)), (fitted.rest, slice(full, len(words)))]
    corrected = detected = 0
    for each, part in parts:
        if each is None or part.start == part.stop:
            continue
        rows = words[part].reshape(-1, each.words)
        decoded = each.decode(rows, np.zeros(len(rows), np.uint64))
        result = decoded.words.copy()
        if not each.masks_detected:
            spares = np.full((1, each.words), spare, np.uint64)
            result[decoded.detected] = each.encode(spares)[0]
        is_wrong = (each.encode(rows)[0] != rows).any(axis=1)
        detected += int(decoded.detected.sum())
        corrected += int((is_wrong & ~decoded.detected).sum())
        words[part] = result.reshape(-1)
    return words, corrected, detected


@pytest.mark.filterwarnings("ignore:ecc leaves 0.weight:UserWarning")  # cep in float64
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("code", CODES)
def test_the_words_are_codewords_and_the_model_stays_plain(code: str, dtype: torch.dtype) -> None:
    model = network(dtype)
    before = bits_of(model)
    protected = protect.protect(model, "ecc", code=code)
    assert same_bits(before, model)
    state = protected.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert (state[name].dtype, state[name].shape) == (tensor.dtype, tensor.shape)
    plain = network(dtype)
    plain.load_state_dict(state)
    assert torch.equal(run(plain), run(protected))
    assert guard_of(protected).corrected == guard_of(protected).detected == 0
    for name in guard_of(protected).names:
        words, corrected, detected = by_definition(code, state[name], 0.0)
        assert (corrected, detected) == (0, 0)
        np.testing.assert_array_equal(words, words_of(state[name]))
    coded = {stored.name for stored in stored_tensors(protected)} - set(guard_of(protected).names)
    left = {"whole"} if code == "mset" else set()
    if code == "cep" and dtype == torch.float64:
        left = {name for name, t in state.items() if t.dtype == dtype}
    assert coded - {"error_correction.replacements"} == left


@pytest.mark.filterwarnings("ignore:ecc leaves 0.weight:UserWarning")  # cep in float64
@pytest.mark.parametrize("ber", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("code", CODES)
def test_a_scrub_decodes_every_word(code: str, dtype: torch.dtype, ber: float) -> None:
    protected = protect.protect(network(dtype), "ecc", code=code)
    guard, before = guard_of(protected), bits_of(protected)
    replacements = {}
    if guard._replaced:
        replacements = dict(zip(guard._replaced, guard.replacements.tolist(), strict=True))
    assert (replacements.get("1.running_var", 0) > 0) == ("1.running_var" in guard.names)
    fault = BitFlip(ber, where=tuple(guard.names))
    expected = {}
    with inject(protected, fault, "native", seed=3):
        for name, tensor in zip(guard.names, guard.tensors(protected), strict=True):
            expected[name] = by_definition(code, tensor, replacements.get(name, 0.0))
        found = scrub(protected)
        for name, tensor in zip(guard.names, guard.tensors(protected), strict=True):
            words, corrected, detected = expected[name]
            assert found.get(name, (0, 0)) == (corrected, detected)
            np.testing.assert_array_equal(words_of(tensor), words)
    assert sum(sum(each) for each in found.values()) > 0
    assert same_bits(before, protected)
    assert scrub(protected) == {}


def test_few_flips_do_not_change_the_answer() -> None:
    protected = protect.protect(network(), "ecc", code="bch2")
    clean, before = run(protected), bits_of(protected)
    whole = 0
    for trial in range(20):
        with inject(protected, BitFlip(1e-3), "native", seed=1, trial=trial) as record:
            assert record.flips > 0
            out = run(protected)
            found = guard_of(protected).last_scrub.values()
            if not any(each.detected for each in found):
                assert torch.equal(out, clean)
                whole += 1
            run(protected)
            assert guard_of(protected).last_scrub == {}
        assert same_bits(before, protected)
    assert guard_of(protected).corrected > 0
    assert whole > 10


def test_nested_injections_are_undone_in_order() -> None:
    protected = protect.protect(network(torch.bfloat16), "ecc", code="bch2")
    before = bits_of(protected)
    with inject(protected, BitFlip(0.02), "native", seed=1):
        faulted = bits_of(protected)
        with inject(protected, BitFlip(0.02), "native", seed=2):
            run(protected)
        assert same_bits(faulted, protected)
        run(protected)
        assert not same_bits(faulted, protected)
    assert same_bits(before, protected)


def test_outside_injections_scrubs_are_permanent() -> None:
    protected = protect.protect(network(), "ecc", code="secded")
    before = bits_of(protected)
    weight = protected.get_parameter("4.weight")
    version = weight._version
    weight.detach().view(torch.int32)[2, 3] ^= 1 << 30
    raised = weight._version
    run(protected)
    assert same_bits(before, protected)
    assert guard_of(protected).last_scrub == {"4.weight": (1, 0)}
    assert weight._version > raised > version
    weight.detach().view(torch.int32)[2, 3] ^= 3 << 29
    run(protected)
    assert weight[2, 3].item() == 0.0
    assert (guard_of(protected).corrected, guard_of(protected).detected) == (1, 1)


def test_replacements_have_the_sign_of_all_values() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.bias").copy_(torch.tensor([-3.0, -0.5, -2, -8, -1]))
    protected = protect.protect(model, "ecc", code="bch2")
    guard = guard_of(protected)
    variance, bias = protected.get_buffer("1.running_var"), protected.get_parameter("0.bias")
    # The largest variance damps a channel; a lost bias becomes the one nearest to 0.
    for tensor, nearest in ((variance, variance.max().item()), (bias, bias.max().item())):
        tensor.detach().view(torch.int32)[1] ^= 0b111 << 27
        detected = guard.detected
        run(protected)
        assert guard.detected == detected + 1
        assert abs(tensor[1].item() - nearest) <= abs(nearest) * 2.0**-7  # stored in bch3
        assert tensor[1].sign().item() == np.sign(nearest)
    names = [stored.name for stored in stored_tensors(protected)]
    assert names.count("error_correction.replacements") == 1
    assert "bound" in {
        stored.kind for stored in stored_tensors(protected) if stored.layer == "error_correction"
    }
    space = FaultSpace(protected, "native")
    before = FaultSpace(model, "native")
    assert space.bits == before.bits + 32 * guard.replacements.numel()
    # A fault in a replacement is corrected before the replacement is read.
    guard.replacements.view(torch.int32)[0] ^= 1 << 30
    variance.view(torch.int32)[0] ^= 0b111 << 27
    run(protected)
    assert guard.last_scrub["error_correction.replacements"] == (1, 0)
    assert 0 < variance[0].item() < 1e3


def test_a_lost_mean_becomes_the_median_even_if_all_means_are_positive() -> None:
    model = network()
    with torch.no_grad():
        model.get_buffer("1.running_mean").copy_(torch.tensor([1.0, 2.0, 3.0, 50.0, 4.0]))
    protected = protect.protect(model, "ecc", code="bch2")
    mean = protected.get_buffer("1.running_mean")
    mean.view(torch.int32)[0] ^= 0b111 << 27
    run(protected)
    assert guard_of(protected).detected == 1
    assert abs(mean[0].item() - 3.0) <= 3.0 * 2.0**-7


def test_integers_and_tensors_without_sign_become_zero() -> None:
    protected = protect.protect(network(), "ecc", code="secded")
    whole = protected.get_buffer("whole")
    whole.view(torch.uint8)[3] ^= 0b11 << 6
    run(protected)
    assert guard_of(protected).last_scrub == {"whole": (0, 1)}
    assert not whole[:8].any()
    assert whole[8:].any()


@pytest.mark.filterwarnings("ignore:ecc leaves 0.weight:UserWarning")  # cep in float64
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_range_composes_in_either_order(
    code: str, granularity: str, dtype: torch.dtype
) -> None:
    model = network(dtype)
    before = bits_of(model)
    first = protect.protect(
        protect.protect(model, "ecc", code=code), "weight-range", granularity=granularity
    )
    second = protect.protect(
        protect.protect(model, "weight-range", granularity=granularity), "ecc", code=code
    )
    assert same_bits(before, model)
    assert same_bits(bits_of(first), second)
    for protected in (first, second):
        bounds = weight_range_of(protected)
        assert bounds is not None
        clean = run(protected)
        assert bounds.repairs == 0
        assert guard_of(protected).last_scrub == {}
        state = bits_of(protected)
        with inject(protected, BitFlip(5e-3), "native", seed=1):
            run(protected)
            run(protected)
        assert same_bits(state, protected)
        assert torch.equal(run(protected), clean)


def test_detected_words_become_the_bound_of_their_channel() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("4.weight")[3].abs_().add_(0.25)
    protected = protect.protect(
        protect.protect(model, "weight-range", granularity="channel"), "ecc", code="bch2"
    )
    weight = protected.get_parameter("4.weight")
    nearest = weight[3].min().item()
    weight.detach().view(torch.int32)[3, 5] ^= 0b111 << 27
    weight.detach().view(torch.int32)[4, 5] ^= 0b111 << 27
    run(protected)
    assert guard_of(protected).last_scrub == {"4.weight": (0, 2)}
    assert abs(weight[3, 5].item() - nearest) <= nearest * 2.0**-7  # bounds are in bch3
    assert weight[4, 5].item() == 0.0
    # In bch2 words, the bound may lie one step outside of itself: weight-range puts that right.
    guard = weight_range_of(protected)
    assert guard is not None
    outside = guard.repairs
    assert outside <= 1
    # A bound that is lost becomes the loosest one.
    low = protected.get_buffer("weight_range.low")
    low.view(torch.int32)[2] ^= 0b1111 << 27
    run(protected)
    assert guard_of(protected).last_scrub == {"weight_range.low": (0, 1)}
    assert abs(low[2].item() / low.min().item() - 1) < 2.0**-7
    assert guard.repairs == 2 * outside


def test_clips_compose(trained_cnn: nn.Module, digits: Any) -> None:
    images = digits.test.images[:20]
    coded = protect.protect(trained_cnn, "ecc", code="bch2")
    clipped = protect.protect(coded, "ranger", digits)
    other = protect.protect(protect.protect(trained_cnn, "ranger", digits), "ecc", code="bch2")
    with torch.no_grad():
        assert (clipped(images) - other(images)).abs().max() < 0.1
    for protected in (clipped, other):
        guard = guard_of(protected)
        thresholds = {n for n in protected.state_dict() if n.endswith(".threshold")}
        assert thresholds
        assert thresholds <= set(guard.names)
        assert guard.code == "bch2"
    assert find_sites(coded, images)


def test_a_schedule_scrubs_every_nth_forward() -> None:
    protected = protect.protect(network(), "ecc", code="secded", every=3)
    weight = protected.get_parameter("4.weight")
    counts = []
    for _ in range(7):
        weight.detach().view(torch.int32)[0, 0] ^= 1 << 29
        run(protected)
        counts.append(guard_of(protected).corrected)
    # The second and the third flip undo each other until the scrub.
    assert counts == [1, 1, 1, 2, 2, 2, 3]
    on_demand = protect.protect(network(), "ecc", code="secded", every=0)
    weight = on_demand.get_parameter("4.weight")
    weight.detach().view(torch.int32)[0, 0] ^= 1 << 29
    run(on_demand)
    assert guard_of(on_demand).corrected == 0
    guard_of(on_demand).scrub()
    assert guard_of(on_demand).corrected == 1
    assert scrub(on_demand) == {}


def test_a_background_thread_scrubs_and_ends_with_the_model() -> None:
    def threads() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "proact-scrub"]

    assert not threads()
    protected = protect.protect(network(), "ecc", code="secded", every=0, interval=0.01)
    (thread,) = threads()
    weight = protected.get_parameter("4.weight")
    weight.detach().view(torch.int32)[0, 0] ^= 1 << 29
    _wait_until(partial(_has_corrected, protected))
    with inject(protected, BitFlip(1e-3), "native"):  # memory stays as the injection left it
        faulted = bits_of(protected)
        time.sleep(0.05)
        assert same_bits(faulted, protected)
    copies = [copy.deepcopy(protected), pickle.loads(pickle.dumps(protected))]
    assert threads() == [thread]
    run(copies[0])
    assert len(threads()) == 2
    del protected, copies, weight
    gc.collect()
    _wait_until(lambda: not threads())


def test_a_removed_guard_ends_its_thread() -> None:
    protected = protect.protect(network(), "ecc", code="secded", interval=0.01)
    again = protect.protect(protected, "weight-range")
    first = next(t for t in threading.enumerate() if t.name == "proact-scrub")
    remove_error_correction(protected)
    remove_error_correction(again)
    _wait_until(lambda: not first.is_alive())
    _wait_until(lambda: not any(t.name == "proact-scrub" for t in threading.enumerate()))


def test_compiled_models_are_scrubbed() -> None:
    protected = protect.protect(network(), "ecc", code="secded")
    compiled = torch.compile(protected, backend="eager")
    clean = run(compiled)
    protected.get_parameter("4.weight").detach().view(torch.int32)[0, 0] ^= 1 << 30
    assert torch.equal(run(compiled), clean)
    assert guard_of(protected).corrected == 1


def test_the_guard_works_without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    native = protect.protect(network(), "ecc", code="bch2")
    with inject(native, BitFlip(5e-3), "native", seed=2):
        run(native)
        expected, counts = bits_of(native), guard_of(native).last_scrub
    monkeypatch.setattr(_native, "module", None)
    plain = protect.protect(network(), "ecc", code="bch2")
    before = bits_of(plain)
    with inject(plain, BitFlip(5e-3), "native", seed=2):
        run(plain)
        assert same_bits(expected, plain)
        assert guard_of(plain).last_scrub == counts
    assert counts
    assert same_bits(before, plain)


def test_a_campaign_refuses_other_schedules(trained_cnn: nn.Module, digits: Any) -> None:
    for options, shown in (({"every": 2}, "every=2"), ({"interval": 60.0}, "interval=60.0")):
        variants = {"coded": protect.protect(trained_cnn, "ecc", **options)}
        with pytest.raises(ValueError, match=f"variants: 'coded' is protected by ecc .*{shown}"):
            campaign.run(variants, digits, [BitFlip(1e-4)], encoding="float32", trials=1)


def test_a_campaign_sees_what_ecc_corrects(trained_cnn: nn.Module, digits: Any) -> None:
    variants = {"plain": trained_cnn, "coded": protect.protect(trained_cnn, "ecc", code="bch2")}
    fault = BitFlip(2e-3)
    result = campaign.run(variants, digits, [fault], encoding="float32", trials=3)
    coded, plain = (result.values(name, fault) for name in ("coded", "plain"))
    assert min(value for value, _ in coded) > 0.9
    assert sum(value for value, _ in plain) / 3 < 0.8


def _has_corrected(model: nn.Module) -> bool:
    return guard_of(model).corrected == 1


def _wait_until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_an_error_in_the_background_is_raised_by_the_next_forward() -> None:
    protected = protect.protect(network(), "ecc", code="secded", every=0, interval=0.01)
    protected.half()
    _wait_until(lambda: not any(t.name == "proact-scrub" for t in threading.enumerate()))
    with pytest.raises(ProactError, match="a scrub in the background failed: 0.weight was conver"):
        run(protected)


def test_copies_guard_their_own_memory() -> None:
    protected = protect.protect(network(), "ecc", code="bch2")
    clean, before = run(protected), bits_of(protected)
    for other in (copy.deepcopy(protected), pickle.loads(pickle.dumps(protected))):
        guard = guard_of(other)
        with pytest.raises(ProactError, match=r"has not run yet: call proact.nn.scrub\(model\)"):
            guard.scrub()
        other.get_parameter("4.weight").detach().view(torch.int32)[0, 0] ^= 1 << 29
        assert scrub(other) == {"4.weight": (1, 0)}
        assert torch.equal(run(other), clean)
        guard.scrub()
        assert same_bits(before, protected)
    plain = without_error_correction(protected)
    assert error_correction_of(plain) is None
    assert torch.equal(run(plain), clean)
    assert without_error_correction(plain) is plain
    remove_error_correction(protected)
    assert not protected._forward_pre_hooks
    assert not protected._forward_hooks
    assert not protected._load_state_dict_pre_hooks
    assert not protected._load_state_dict_post_hooks
    with pytest.raises(ValueError, match="Sequential has no ecc guard"):
        scrub(protected)


def test_removing_one_guard_keeps_the_other() -> None:
    both = protect.protect(protect.protect(network(), "ecc"), "weight-range")
    words = without_weight_range(both)
    words.get_parameter("4.weight").detach().view(torch.int32)[0, 0] ^= 1 << 29
    run(words)
    assert guard_of(words).corrected == 1
    bounds = without_error_correction(both)
    with torch.no_grad():
        bounds.get_parameter("4.weight")[0, 0] = 1e9
    run(bounds)
    assert weight_range_of(bounds).repairs == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("methods", [("ecc",), ("ecc", "weight-range"), ("ranger", "ecc")])
def test_protections_are_saved(
    methods: tuple[str, ...], trained_cnn: nn.Module, digits: Any, tmp_path: Path
) -> None:
    protected = trained_cnn
    for method in methods:
        options: dict[str, Any] = {"code": "secded", "every": 2} if method == "ecc" else {}
        protected = protect.protect(protected, method, digits, **options)
    file = tmp_path / "protection.safetensors"
    protect.save(protected, file)
    again = protect.load(trained_cnn, file)
    assert same_bits(bits_of(protected), again)
    assert (guard_of(again).code, guard_of(again).every) == ("secded", 2)
    assert guard_of(again)._replaced == guard_of(protected)._replaced
    images = digits.test.images[:5]
    with torch.no_grad():
        assert torch.equal(again(images), protected(images))
    protect.save(again, file)
    with pytest.raises(ValueError, match="protected already"):
        protect.load(again, file)
    with torch.no_grad():
        next(again.parameters()).mul_(2)
    with pytest.raises(ValueError, match="have changed since it was protected"):
        protect.save(again, file)


def test_the_cost_counts_replacements(trained_cnn: nn.Module, digits: Any) -> None:
    protected = protect.protect(trained_cnn, "ecc", code="bch2")
    numbers = sum(buffer.numel() for buffer in guard_of(protected).buffers())
    price = protect.cost(protected, digits, unprotected=trained_cnn)
    assert price.bounds == numbers
    assert price.bytes == 4 * numbers
    assert price.clean_before is not None
    assert abs(price.clean - price.clean_before) < 0.02


def test_loading_checks_words_before_it_copies_any() -> None:
    model = network()
    protected = protect.protect(model, "ecc", code="bch2")
    before = bits_of(protected)
    with pytest.raises(ValueError, match="0.weight in the state_dict has .* load it into the unpr"):
        protected.load_state_dict(model.state_dict())
    assert same_bits(before, protected)
    other = network()
    with torch.no_grad():
        other.get_buffer("1.running_var").mul_(3)
    coded = protect.protect(other, "ecc", code="bch2")
    protected.load_state_dict(coded.state_dict())
    assert same_bits(bits_of(coded), protected)  # the replacements too
    assert torch.equal(run(protected), run(coded))


def test_bad_input_changes_nothing() -> None:
    model = network()
    before = bits_of(model)
    with pytest.raises(ValueError, match=r"a code is one of secded, .*did you mean 'bch3'"):
        protect.protect(model, "ecc", code="bch33")
    for every in (-1, 1.5, True):
        with pytest.raises(ValueError, match="every must be a number of forwards"):
            protect.protect(model, "ecc", every=every)
    for interval in (0, -1.0, float("inf"), "1"):
        with pytest.raises(ValueError, match="interval must be None or seconds above 0"):
            protect.protect(model, "ecc", interval=interval)
    with pytest.raises(TypeError, match="ecc has the options code, every, interval"):
        protect.protect(model, "ecc", granularity="tensor")
    with pytest.raises(ValueError, match="ecc needs at least one tensor whose words the code cep"):
        protect.protect(nn.Linear(2, 2).double(), "ecc", code="cep")
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    with pytest.raises(ValueError, match="mask holds NaN or infinity"):
        protect.protect(model, "ecc")
    del model._buffers["mask"]
    model.error_correction = 3
    with pytest.raises(ValueError, match="has an attribute 'error_correction'"):
        protect.protect(model, "ecc")
    del model.error_correction
    assert same_bits(before, model)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_training_conversion_and_export_are_refused() -> None:
    protected = protect.protect(network(), "ecc")
    with pytest.raises(ProactError, match=r"train proact.nn.without_error_correction\(model\)"):
        protected.train()(IMAGES)
    protected.eval()
    with pytest.raises(ProactError, match="an ecc guard cannot be exported"):
        torch.jit.trace(protected, (IMAGES,))
    halves = copy.deepcopy(protected).half()
    before = bits_of(halves)
    with pytest.raises(ProactError, match="0.weight was converted to torch.float16, and its check"):
        run(halves)
    assert same_bits(before, halves)
    del protected[4].bias
    with pytest.raises(ProactError, match="ecc guards 4.bias, which the model no longer has"):
        run(protected)


@pytest.mark.parametrize("encoding", ["q15.16", "int8", "bfloat16", "float32+bch2"])
def test_encodings_that_store_other_words_are_refused(encoding: str) -> None:
    from proact.faults import encode

    protected = protect.protect(network(), "ecc")
    before = bits_of(protected)
    message = "has check bits of ecc in its float32 words.*: use the encoding native or float32"
    with pytest.raises(ValueError, match=message):
        encode(protected, encoding)
    with (
        pytest.raises(ValueError, match=message),
        inject(protected, BitFlip(1e-3), encoding),
    ):
        pass
    assert same_bits(before, protected)
    assert same_bits(before, encode(protected, "native"))


def test_replayed_flips_are_corrected() -> None:
    protected = protect.protect(network(), "ecc", code="bch2")
    clean = run(protected)
    with inject(protected, BitFlip(2e-4), "native", seed=5) as record:
        run(protected)
        faults = record.faults()
    assert len(faults)
    with inject(protected, Replay(faults), "native"):
        assert torch.equal(run(protected), clean)


def test_autograd_sees_that_words_were_corrected() -> None:
    protected = protect.protect(network(), "ecc", code="secded")
    out = protected(IMAGES.requires_grad_(False)).sum()
    protected.get_parameter("4.weight").detach().view(torch.int32)[0, 0] ^= 1 << 29
    protected(IMAGES)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize("has_bounds", [False, True])
def test_a_lost_threshold_becomes_the_loosest_one(has_bounds: bool) -> None:
    model = network()
    model = protect.protect(model, "weight-range") if has_bounds else model
    protected = protect.protect(model, "ecc")
    threshold = protected.get_parameter("5.threshold")
    loosest = threshold.max().item()
    threshold.detach().view(torch.int32)[threshold.argmin()] ^= 0b111 << 27
    run(protected)
    assert guard_of(protected).last_scrub == {"5.threshold": (0, 1)}
    assert (threshold / loosest - 1).abs().sort().values[1] < 2.0**-11
