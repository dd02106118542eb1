"""Do Hugging Face's models, which return objects with logits, go through as they are?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import CLASSES, check_campaign, check_clips, check_protected

from proact import protect
from proact.nn.forward import Forward

hf = pytest.importorskip(
    "transformers", reason="transformers is not installed; make test-ecosystem installs it"
)
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (
            "ResNetConfig",
            {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1] * 4},
        ),
        ("RegNetConfig", {"embedding_size": 16, "hidden_sizes": [64] * 4, "depths": [1] * 4}),
        ("MobileNetV2Config", {"depth_multiplier": 0.35}),
    ],
)
def test_networks_with_relu(config: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    chosen = getattr(hf, config)(num_labels=CLASSES, **options)
    model = hf.AutoModelForImageClassification.from_config(chosen)
    assert check_protected(model, 64) > 5


def test_networks_without_relu_are_measured() -> None:
    torch.manual_seed(0)
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        num_labels=CLASSES,
    )
    model = hf.ViTForImageClassification(config)
    check_campaign({"vit": model}, 32)
    assert check_protected(model, 32, ("gelu",)) == 2


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
}
T5: dict[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}


def tokens(samples: int = 10) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 50, (samples, 12), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    ("name", "config", "sites"),
    [
        ("BertForSequenceClassification", lambda: hf.BertConfig(**SMALL), 2),
        *(
            (
                "BertForTokenClassification",
                lambda act=act: hf.BertConfig(**SMALL, hidden_act=act),
                2,
            )
            for act in ("gelu_new", "gelu_fast", "quick_gelu", "gelu_pytorch_tanh", "silu", "relu")
        ),
        (
            "DistilBertForSequenceClassification",  # a ReLU that the forward makes
            lambda: hf.DistilBertConfig(
                dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=50
            ),
            3,
        ),
        (
            "GPT2LMHeadModel",
            lambda: hf.GPT2Config(
                n_embd=32, n_layer=2, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2
            ),
            2,
        ),
        ("LlamaForCausalLM", lambda: hf.LlamaConfig(**SMALL), 2),
    ],
)
def test_language_models(name: str, config: Any, sites: int) -> None:
    torch.manual_seed(0)
    model = getattr(hf, name)(config())
    assert check_clips(model, tokens(), Forward(output="logits")) == sites


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_an_encoder_with_a_decoder(feed_forward: str) -> None:
    torch.manual_seed(0)
    config = hf.T5Config(**T5, vocab_size=50, feed_forward_proj=feed_forward)
    model = hf.T5ForConditionalGeneration(config)
    batch = tokens() | {"decoder_input_ids": tokens()["input_ids"]}
    assert check_clips(model, batch, Forward(output="logits")) == 4


def test_a_language_model_is_trained_by_proact() -> None:
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL)).eval()
    batch = tokens(40)
    targets = torch.full_like(batch["input_ids"], -100)
    targets[:, :-1] = batch["input_ids"][:, 1:]
    hardened = protect.protect(
        model,
        "proact",
        (batch, targets),
        loss=protect.token_cross_entropy,
        metric=protect.token_accuracy,
        activations="all",
        granularity="layer",
        epochs=1,
        decays=(0.1,),
        tolerance=1.0,
    )
    assert sum("threshold" in name for name, _ in hardened.named_parameters()) == 2
