"""Do formats with scales store every matrix in their words, whatever its name, and nothing else?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact.encodings import Coded, encoding_named
from proact.faults import FaultSpace, Where, encode

FORMATS = ["int8", "int8-tensor", "int4", "mxfp4", "mxfp8_e4m3", "nvfp4", "int8+secded64"]


class Norm(nn.Module):
    """A normalisation by its name, whose parameter is a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(4, 8))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate_up_proj = nn.Parameter(torch.randn(4, 32, 32))
        self.kernel = nn.Parameter(torch.randn(3, 3, 2, 8))
        self.parts = nn.ParameterList([torch.randn(6, 8), torch.randn(8)])
        self.pos_embed = nn.Parameter(torch.randn(1, 7, 16))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.gamma = nn.Parameter(torch.randn(16, 1, 1))
        self.expert_bias = nn.Parameter(torch.randn(4, 32))
        self.table = nn.Buffer(torch.randn(4, 8))
        self.codes = nn.Parameter(torch.full((4, 8), 99, dtype=torch.int32), False)
        self.norm = Norm()
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(x)


SCALES = Where(kind="scale")
MATRICES = {"gate_up_proj", "kernel", "parts.0", "pos_embed", "head.weight"}


@pytest.mark.parametrize("encoding", FORMATS)
def test_words_depend_on_shapes_and_not_on_names(encoding: str) -> None:
    model = Named()
    by_name = {
        e.name: e.word.name for e in FaultSpace(model, encoding, where=Where(exclude=SCALES))
    }
    format_name = encoding.partition("+")[0].removesuffix("-tensor")
    assert {
        n for n, word in by_name.items() if not word.startswith(("float32", "int32"))
    } == MATRICES
    assert by_name["gate_up_proj"].startswith(format_name)
    rounded = encode(model, encoding)
    kept = {
        name
        for name, tensor in rounded.state_dict().items()
        if torch.equal(tensor, model.state_dict()[name])
    }
    assert kept == set(model.state_dict()) - MATRICES


def test_kinds_say_what_a_format_with_scales_stores() -> None:
    weights = FaultSpace(Named(), "native", where=Where(kind="weight"))
    assert {each.name for each in weights} == MATRICES
    other = FaultSpace(Named(), "native", where=Where(kind="other"))
    assert {each.name for each in other} == {"parts.1", "cls_token", "gamma", "table", "codes"}
    biases = FaultSpace(Named(), "native", where=Where(kind="bias"))
    assert {each.name for each in biases} == {"expert_bias", "head.bias"}


def test_names_do_not_matter_to_the_values_of_a_matrix() -> None:
    plain, named = nn.Module(), nn.Module()
    matrix = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    plain.weight, named.down_proj = nn.Parameter(matrix.clone()), nn.Parameter(matrix.clone())
    for encoding in FORMATS:
        a, b = encode(plain, encoding).weight, encode(named, encoding).down_proj
        assert torch.equal(a, b), encoding


def test_a_matrix_can_be_left_out_by_name() -> None:
    model = Named()
    rounded = encode(model, {"pos_embed": "native", "*": "int8"})
    assert torch.equal(rounded.pos_embed, model.pos_embed)
    assert not torch.equal(rounded.kernel, model.kernel)


def test_a_matrix_with_infinity_is_refused_with_a_way_out() -> None:
    model = Named()
    with torch.no_grad():
        model.pos_embed[0, 0, 0] = -torch.inf
    with pytest.raises(
        ValueError, match=r"pos_embed holds .* \{'pos_embed': 'native', '\*': 'int8'"
    ):
        encode(model, "int8")
    encode(model, {"pos_embed": "native", "*": "int8"})


def test_rows_of_older_stores_are_not_mixed_with_new_ones() -> None:
    def revision(name: str) -> int:
        return encoding_named(name).revision

    assert [revision(name) for name in ("float32", "q15.16", "int8", "mxfp4")] == [1, 1, 3, 2]
    assert Coded("int8", "secded").revision == 3
    assert Coded("float32", "bch2").revision == 1
