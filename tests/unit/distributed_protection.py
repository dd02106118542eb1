"""Started by torchrun: protects the demo's network in several processes; the first one saves.

Arguments: the method, a folder. Each process leaves the digest of its thresholds there too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from proact import data, models, protect
from proact.data import Data, Split
from proact.nn import HyReLU

OPTIONS: dict[str, dict[str, object]] = {
    "proact": {"epochs": 2, "decays": (3.0, 0.3), "batch": 50},
    "fitact": {"epochs": 2, "batch": 50},
    "ft-clipact": {"patterns": 5, "images_per_pattern": 40, "encoding": "q15.16"},
    "resilience-aware-proact": {"epochs": 1, "decays": (1.0,), "patterns": 5, "quantiles": (0.9,)},
}


def main(method: str, folder: Path) -> None:
    torch.set_num_threads(1)
    digits = data.load("digits")
    network = models.trained("small-cnn", digits, seed=0).double()
    # In float64: what two processes add up in another order differs in the last digits alone.
    splits = (
        Split(split.images.double(), split.labels)
        for split in (digits.train, digits.validation, digits.test)
    )
    digits = Data("double digits", *splits, digits.num_classes)
    lines: list[str] = []
    hardened = protect.protect(network, method, digits, progress=lines.append, **OPTIONS[method])
    thresholds = [m.threshold.detach() for m in hardened.modules() if isinstance(m, HyReLU)]
    text = b"".join(t.numpy().tobytes() for t in thresholds)
    rank = dist.get_rank() if dist.is_initialized() else 0
    report = {"digest": hashlib.sha256(text).hexdigest(), "lines": lines}
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    if rank == 0:
        protect.save(hardened, folder / "thresholds.safetensors")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(sys.argv[1], Path(sys.argv[2]))
    dist.barrier()  # nobody leaves while another still talks
    dist.destroy_process_group()
