"""The mark of tests that need a GPU, and the dtypes of their tensors."""

from __future__ import annotations

import os

import pytest
import torch

import proact

IS_READY = torch.cuda.is_available() and proact.build_info()["cuda"] is not None
GPU = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        # With `make test-cuda`, a missing GPU is a failure.
        not IS_READY and "PROACT_NEEDS_CUDA" not in os.environ,
        reason="needs a GPU, torch for CUDA and proact built with CUDA",
    ),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
