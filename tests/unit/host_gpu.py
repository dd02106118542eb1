"""A plugin of pytest: the tests of a GPU run on host memory.

``cuda`` is the CPU, the source of the kernels runs on the host, and streams and events do nothing.
So this tests what the tests ask of proact, and nothing of what a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import proact
from proact import _native
from proact.ops import cuda_stream


class Event:
    """Work that is done."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class Stream:
    """Work that is queued here is made at once."""

    device_index = cuda_stream = 0
    device = torch.device("cpu")

    def wait_stream(self, other: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self) -> Event:
        return Event()


def _on_host(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(make)
    def made(*args: Any, **kwargs: Any) -> Tensor:
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return make(*args, **kwargs)

    return made


def _take_the_host_for_a_gpu() -> None:
    (path,) = (Path(__file__).parents[2] / "build/tests").glob("_proact*.so")
    loader = ExtensionFileLoader("_proact", str(path))
    spec = spec_from_loader("_proact", loader)
    assert spec is not None
    _native.module = module_from_spec(spec)
    loader.exec_module(_native.module)
    cuda_stream.is_on_gpu = lambda tensor: True
    build = {**proact.build_info(), "cuda": "host"}
    proact.build_info = lambda: build
    for name in ("empty", "full", "ones", "rand", "randn"):
        setattr(torch, name, _on_host(getattr(torch, name)))
    of_tensor: Any = Tensor
    of_tensor.cuda = lambda tensor, *_: tensor.clone()
    of_module: Any = nn.Module
    of_module.cuda = lambda module, *_: module
    gpu: Any = torch.cuda
    gpu.is_available = lambda: True
    gpu.device_count = lambda: 1
    gpu.Stream, gpu.Event = Stream, Event
    gpu.current_stream = lambda device=None: Stream()
    gpu.stream = lambda stream: nullcontext()
    gpu.synchronize = gpu._sleep = lambda *_: None


_take_the_host_for_a_gpu()
