"""Are sites found on models with any inputs, whatever holds or writes out their activations?"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.errors import ProactError
from proact.nn import Site, find_sites, observed, replace_sites


class Tokens(nn.Module):
    """Takes integers and a mask by name, and returns an object."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.head = nn.Embedding(20, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = F.relu(self.up(self.embed(input_ids))) * attention_mask[..., None]
        return SimpleNamespace(logits=self.head(hidden.sum(1)), loss=None)


def tokens() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (5, 7), generator=generator)
    return {"input_ids": ids, "attention_mask": (ids > 3).float()}


def test_integers_enter_by_name_and_a_function_enters_otherwise() -> None:
    torch.manual_seed(0)
    model, batch = Tokens().eval(), tokens()
    (site,) = find_sites(model, batch)
    assert (site.name, site.shape, site.dtype) == ("relu_1", (7, 8), torch.float32)

    def swapped(network: nn.Module, pair: tuple[Tensor, Tensor]) -> Any:
        return network(input_ids=pair[1], attention_mask=pair[0])

    pair = (batch["attention_mask"], batch["input_ids"])
    assert find_sites(model, pair, forward=swapped) == [site]
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(
            replace_sites(model, {site: site.clip(math.inf)})(**batch).logits, expected
        )
        shut = replace_sites(model, {site: site.clip(0.0)})(**batch).logits
    assert torch.equal(shut, model.head.bias.expand(5, 3))


class Answer(OrderedDict[str, Tensor]):
    pass


@dataclass
class Scores:
    logits: Tensor
    extra: tuple[Tensor, None] | None = None


class Packs(nn.Module):
    """Returns its tensors in an object, from the forward that is rewritten."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.pack = nn.Linear(4, 4), pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(F.relu(self.a(x)))


@pytest.mark.parametrize(
    "pack",
    [
        lambda h: Scores(h, (h + 1, None)),
        lambda h: OrderedDict(out=h, aux=h + 1),
        lambda h: {"a": [h, SimpleNamespace(inner=h + 1)]},
    ],
)
def test_objects_come_out_as_they_were(pack: Callable[[Tensor], Any]) -> None:
    model, x = Packs(pack).eval(), torch.randn(3, 4)
    (site,) = find_sites(model, x)
    with torch.no_grad():
        found, expected = replace_sites(model, {site: site.clip(1e6)})(x), model(x)
    assert type(found) is type(expected)
    assert str(found) == str(expected)


def test_an_object_that_cannot_be_made_again_is_named() -> None:
    with pytest.raises(ValueError, match="returns an object of type Answer"):
        find_sites(Packs(lambda h: Answer(out=h)).eval(), torch.randn(3, 4))


class Pair(nn.Module):
    """Takes a tuple, and calls a block with a list that it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = Exchange(), nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        parts = [x, y]
        mixed = self.block(parts, scale=2, mode="sum")
        out: Tensor = self.last(mixed + parts[0])
        return out


class Exchange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(
        self, parts: list[Tensor], scale: int = 1, mode: str = "mean", gate: Tensor | None = None
    ) -> Tensor:
        parts[0] = self.act(self.a(parts[0]))
        parts[1] = self.act(self.b(parts[1]))
        mixed = parts[0] + parts[1] if mode == "sum" else (parts[0] + parts[1]) / 2
        if gate is not None:
            mixed = mixed * gate
        return mixed * scale


def test_a_list_that_the_forward_fills_flags_and_numbers() -> None:
    torch.manual_seed(0)
    model, batch = Pair().eval(), (torch.randn(6, 4), torch.randn(6, 4))
    sites = find_sites(model, batch)
    assert [site.name for site in sites] == ["block.act_1", "block.act_2"]
    loose = replace_sites(model, {site: site.clip(1e6) for site in sites})
    with torch.no_grad():
        assert torch.equal(loose(*batch), model(*batch))
        assert torch.equal(pickle.loads(pickle.dumps(loose))(*batch), model(*batch))
        # Cutting the first call leaves the second, and changes the list for the caller.
        cut = replace_sites(model, {sites[0]: sites[0].clip(0.0)})(*batch)
        expected = model.last(2 * torch.relu(model.block.b(batch[1])))
        torch.testing.assert_close(cut, expected)
    block = loose.get_submodule("block")
    with pytest.raises(ProactError, match="Exchange: mode was 'sum' .* and is 'mean' now"):
        block([*batch], scale=2, mode="mean")
    with pytest.raises(ProactError, match="Exchange: gate was None .* is a tensor now"):
        block([*batch], scale=2, mode="sum", gate=batch[0])
    with pytest.raises(ProactError, match="Exchange: parts had 2 elements .* has 3 now"):
        block([*batch, batch[0]], scale=2, mode="sum")
    # A number that the forward only computes with may change.
    with torch.no_grad():
        assert torch.equal(block([*batch], scale=4, mode="sum"), 2 * block([*batch], 2, "sum"))


class Chooses(nn.Module):
    """Branches on a number that its caller passes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor, depth: int) -> Tensor:
        for _ in range(depth):
            x = F.relu(self.a(x))
        return x


class Chooser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Chooses()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x, 3)
        return out


def test_a_number_that_the_forward_branches_on_is_bound() -> None:
    model, x = Chooser().eval(), torch.randn(3, 4)
    sites = find_sites(model, x)
    assert [site.name for site in sites] == [f"inner.relu_{n}" for n in (1, 2, 3)]
    loose = replace_sites(model, {site: site.clip(1e6) for site in sites})
    assert torch.equal(loose(x), model(x))
    with pytest.raises(ProactError, match="depth was 3 .* and is 2 now"):
        loose.get_submodule("inner")(x, 2)


def written_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x > 0)


class Snake(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(x) ** 2


class Holder(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.a, self.b, self.act_fn = nn.Linear(16, 16), nn.Linear(16, 3), function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.act_fn(self.a(x)))
        return out


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (F.relu, "relu"),
        (torch.relu, "relu"),
        (F.gelu, "gelu"),
        (F.silu, "silu"),
        (written_gelu, "gelu"),
        (Swish(), "silu"),
        (QuickGelu(), "gelu"),
        (Product(), "relu"),
    ],
)
def test_functions_in_attributes_and_modules_of_the_models_own(
    function: Callable[[Tensor], Tensor], kind: str
) -> None:
    torch.manual_seed(0)
    model, x = Holder(function).eval(), 3 * torch.randn(64, 16)
    (site,) = find_sites(model, x, kinds=(kind,))
    assert (site.name, site.activation.kind, site.caller) == ("act_fn", kind, None)
    assert find_sites(model, x, kinds="all") == [site]
    assert vars(model).get("act_fn", function) is function
    values: list[Tensor] = []
    with torch.no_grad():
        hidden = model.a(x)
        value = function(hidden.clone())
        watched = observed(model, [site], lambda _, output: values.append(output))
        assert torch.equal(watched(x), model(x))
        assert torch.equal(values[0], value)
        # A clip zeroes what lies above the threshold, and nothing else.
        clipped = replace_sites(model, {site: site.clip(0.5)})
        torch.testing.assert_close(clipped(x), model.b(torch.where(value > 0.5, 0.0, value)))
        again = replace_sites(clipped, {s: s.clip(1e6) for s in find_sites(clipped, x, (kind,))})
        assert torch.equal(again(x), model(x))
        assert torch.equal(pickle.loads(pickle.dumps(clipped))(x), clipped(x))


def test_other_functions_are_no_sites() -> None:
    torch.manual_seed(0)
    for function in (Snake(), torch.tanh, nn.Identity(), F.leaky_relu):
        with pytest.raises(ValueError, match="has no ReLU or GELU or SiLU or Hardswish"):
            find_sites(Holder(function), 3 * torch.randn(64, 16), kinds="all")


class Twice(Holder):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.act_fn(self.act_fn(self.a(x))))
        return out


def test_an_own_function_that_is_called_twice_is_refused_by_name() -> None:
    for function in (written_gelu, Swish()):
        with pytest.raises(ValueError, match=r"forward of '0' .*(gelu|Swish) is called more than"):
            find_sites(nn.Sequential(Twice(function)), 3 * torch.randn(64, 16), kinds="all")
    assert len(find_sites(nn.Sequential(Twice(F.gelu)), torch.randn(4, 16), kinds="all")) == 2


def test_the_message_says_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"no ReLU, .* found gelu, which activations=\('gelu',\)"):
        find_sites(Holder(F.gelu), torch.randn(4, 16))


class Two(nn.Module):
    """A branch that cannot be traced beside one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.wild, self.tame = Wild(), nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tame(self.wild(x))
        return out


class Wild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x)) if x.sum() < 1e9 else x


@pytest.mark.parametrize("skip", [("wild",), ("w*",), ["wild"]])
def test_skipped_modules_stay_as_they_are(skip: Any) -> None:
    model, x = Two().eval(), torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"forward of 'wild' .* skip=\('wild',\)"):
        find_sites(model, x)
    (site,) = find_sites(model, x, skip=skip)
    assert site.name == "tame.1"
    replaced = replace_sites(model, {site: site.clip(1e6)})
    assert type(replaced.get_submodule("wild.inner.1")) is nn.ReLU


@pytest.mark.parametrize(
    ("skip", "error", "words"),
    [
        (("wild", "nothing.*"), ValueError, "Two has no module that 'nothing.*' fits"),
        ("wild", TypeError, "a tuple of module names or patterns"),
        ((3,), TypeError, "a tuple of module names or patterns"),
        (("*",), ValueError, "skip leaves all 3 calls alone"),
    ],
)
def test_what_cannot_be_skipped_is_named(skip: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        find_sites(Two().eval(), torch.randn(3, 4), skip=skip)


def test_a_function_in_an_attribute_can_be_skipped() -> None:
    model = nn.Sequential(Holder(F.relu), nn.ReLU()).eval()
    sites = find_sites(model, torch.randn(3, 16), skip=("0.act_fn",))
    assert [site.name for site in sites] == ["1"]


def encoder(norm_first: bool) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:the fused kernels of the model")
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoders_of_torch_with_their_default_activation(norm_first: bool) -> None:
    """With a padding mask, torch would run packed tensors through a fused kernel."""
    model, x = encoder(norm_first), torch.randn(4, 5, 8)
    padding = torch.arange(5)[None] >= torch.tensor([5, 4, 3, 2])[:, None]
    batch = {"src": x, "src_key_padding_mask": padding}
    sites = find_sites(model, batch)
    assert [site.name for site in sites] == ["layers.0.activation", "layers.1.activation"]
    ran: list[Site] = []
    with torch.no_grad():
        observed(model, sites, lambda site, _: ran.append(site))(**batch)
        loose = replace_sites(model, {site: site.clip(1e6) for site in sites})(**batch)
        shut = replace_sites(model, {site: site.clip(0.0) for site in sites})(**batch)
        expected = model(**batch)
    assert ran == sites
    kept = ~padding  # what the fused kernel gives for padded tokens is 0
    torch.testing.assert_close(loose[kept], expected[kept], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(shut[kept], expected[kept], atol=1e-3)


def test_low_precision_and_a_decoder() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerDecoder(layer, 1).eval().to(torch.bfloat16)
    batch = (torch.randn(3, 4, 8).bfloat16(), torch.randn(3, 5, 8).bfloat16())
    (site,) = find_sites(model, batch)
    assert site.dtype == torch.bfloat16
    loose = replace_sites(model, {site: site.clip(torch.tensor(1e6, dtype=site.dtype))})
    assert torch.equal(loose(*batch), model(*batch))


class WrittenOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        out: Tensor = self.act(hidden * torch.sigmoid(hidden))
        return out


def test_a_formula_that_a_forward_writes_out_is_not_found() -> None:
    assert [s.name for s in find_sites(WrittenOut(), torch.randn(9, 4), "all")] == ["act"]
