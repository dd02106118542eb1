"""A small causal language model of bytes, trained on text that comes with Python.

The text is the help topics of the language reference (``help("topics")``), 450 kB of English that
every Python has. `model` trains a transformer on it in some minutes and keeps the weights in
``runs/language_model.pt``; another version of Python has another text and other weights.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional

import proact
from proact.data import Data, Split

VOCABULARY, CONTEXT = 256, 64
WIDTH, HEADS, LAYERS = 96, 4, 3
EPOCHS, BATCH, RATE = 12, 64, 3e-3
FILE = Path("runs/language_model.pt")


class Block(nn.Module):
    """Causal attention and a feed-forward part, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.act, self.down = (
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, _ = x.shape
        shape = (samples, tokens, 3, HEADS, WIDTH // HEADS)
        query, key, value = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.joined(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.down(self.act(self.up(self.norm2(x))))


class LanguageModel(nn.Module):
    """Maps token ids (samples, tokens) to logits of each next token (samples, tokens, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.positions(places)
        logits: Tensor = self.output(self.norm(self.blocks(x)))
        return logits


def data() -> Data:
    """Sequences of 64 bytes with the byte that follows each: 80 % train, 10 % each for the rest."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    length = (len(text) - 1) // CONTEXT * CONTEXT
    codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    ids, following = codes[:length].view(-1, CONTEXT), codes[1 : length + 1].view(-1, CONTEXT)
    ends = [0, *(round(share * len(ids)) for share in (0.8, 0.9)), len(ids)]
    parts = [Split(ids[start:end], following[start:end]) for start, end in itertools.pairwise(ends)]
    return Data("Python's help topics", *parts, num_classes=VOCABULARY)


def model() -> LanguageModel:
    """The trained model, from the file if the file belongs to the same text."""
    torch.manual_seed(0)
    found, train = LanguageModel(), data().train
    identity = hashlib.sha256(f"{train.digest} {found} {EPOCHS}".encode()).hexdigest()
    if FILE.exists():
        kept = torch.load(FILE, weights_only=True)
        if kept["identity"] == identity:
            found.load_state_dict(kept["weights"])
            return found.eval()
    steps = EPOCHS * (len(train) // BATCH)
    optimizer = torch.optim.AdamW(found.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        order = torch.randperm(len(train), generator=generator)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            part = train.take(chosen)
            logits = found(part.inputs).flatten(0, 1)
            functional.cross_entropy(logits, part.targets.flatten()).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    FILE.parent.mkdir(exist_ok=True)
    torch.save({"identity": identity, "weights": found.state_dict()}, FILE)
    return found.eval()


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per token, for training thresholds."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


if __name__ == "__main__":
    print(f"proact {proact.__version__}: {sum(p.numel() for p in model().parameters()):,} numbers")
