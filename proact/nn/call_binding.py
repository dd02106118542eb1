"""Describe the arguments of a call, so that torch.fx can follow the forward that was called.

torch.fx passes a proxy for every argument, and a forward cannot branch on a proxy. Arguments that
are no tensors (optional tensors that were left out, flags, texts) are bound instead: they keep the
values of the watched call, and the rewritten forward raises an error for other values. Lists,
tuples and mappings of tensors keep their structure.

A description is JSON, because a protection file stores it with the site.
"""

from __future__ import annotations

import inspect
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from proact.errors import ProactError
from proact.text import short_repr

#: A value that torch.fx passes as a proxy: a tensor, or an object that is used like one.
_PROXY = "proxy"
_PLAIN = (bool, str, type(None))
_NUMBERS = (int, float)
_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def described_call(
    forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], numbers: bool
) -> str:
    """Describe the arguments of a call of the method ``forward``, as JSON by parameter.

    Args:
        forward: a bound method.
        args, kwargs: of the call.
        numbers: whether numbers are bound. Otherwise they are proxies like tensors, so that they
            may differ from call to call.
    """
    try:
        bound = inspect.signature(forward).bind(*args, **kwargs)
    except (TypeError, ValueError):  # a signature that says nothing
        return "{}"
    bound.apply_defaults()
    return json.dumps(
        {name: _described(value, numbers) for name, value in bound.arguments.items()},
        sort_keys=True,
    )


def _described(value: Any, numbers: bool) -> Any:
    if isinstance(value, _PLAIN) or (numbers and isinstance(value, _NUMBERS)):
        return {"value": value}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_described(part, numbers) for part in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _described(part, numbers) for key, part in value.items()}}
    return _PROXY


class BoundArguments:
    """The arguments with which torch.fx follows a forward.

    Args:
        tracer: creates the proxies.
        description: of `described_call`; parameters that it lacks become proxies.
        place: names the module in the errors of the rewritten forward.
    """

    def __init__(self, tracer: fx.Tracer, description: str, place: str) -> None:
        self._tracer, self._place = tracer, place
        self._described: dict[str, Any] = json.loads(description)
        #: Each list that the forward may change: its proxy, the list and its first elements.
        self._lists: list[tuple[fx.Proxy, list[Any], list[Any]]] = []

    def of(self, forward: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional arguments after ``self``, and the keyword arguments."""
        args: list[Any] = []
        keywords: dict[str, Any] = {}
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        # The checks follow the last placeholder, where torch.fx expects them.
        proxies = [self._placeholder(parameter) for parameter in parameters]
        for parameter, proxy in zip(parameters, proxies, strict=True):
            value = self._value(self._described.get(parameter.name, _PROXY), proxy, parameter.name)
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                keywords.update(value)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords[parameter.name] = value
            else:
                args.append(value)
        return args, keywords

    def repeat_changes(self, graph: fx.Graph) -> None:
        """Add to ``graph`` what the forward has stored in the lists that it was given.

        Raises:
            ValueError: it changed the length of a list, or stored something that is no tensor.
        """
        output = next(node for node in reversed(graph.nodes) if node.op == "output")
        for proxy, now, before in self._lists:
            if len(now) != len(before):
                raise ValueError(f"it changes the length of the list {proxy.node.name}")
            for index, (new, old) in enumerate(zip(now, before, strict=True)):
                if new is old:
                    continue
                if not isinstance(new, fx.Proxy):
                    raise ValueError(f"it stores no tensor in the list {proxy.node.name}")
                with graph.inserting_before(output):
                    graph.call_function(operator.setitem, (proxy.node, index, new.node))

    def _placeholder(self, parameter: inspect.Parameter) -> fx.Proxy:
        stars = _STARS.get(parameter.kind, "")
        no_default = stars or parameter.default is inspect.Parameter.empty
        default = () if no_default else (parameter.default,)
        return self._tracer.create_proxy("placeholder", stars + parameter.name, default, {})

    def _value(self, described: Any, proxy: fx.Proxy, name: str) -> Any:
        if described == _PROXY:
            return proxy
        ((kind, content),) = described.items()
        if kind == "value":
            self._check(check_value, proxy, content, name)
            return content
        self._check(check_length, proxy, len(content), name)
        if kind == "dict":
            return {
                key: self._value(part, _element(proxy, key), f"{name}[{short_repr(key)}]")
                for key, part in content.items()
            }
        parts = [
            self._value(part, _element(proxy, index), f"{name}[{index}]")
            for index, part in enumerate(content)
        ]
        if kind == "tuple":
            return tuple(parts)
        self._lists.append((proxy, parts, list(parts)))
        return parts

    def _check(self, check: Callable[..., None], proxy: fx.Proxy, value: Any, name: str) -> None:
        self._tracer.create_proxy(
            "call_function", check, (proxy, value, f"{self._place}: {name}"), {}
        )


def _element(proxy: fx.Proxy, key: str | int) -> fx.Proxy:
    found: fx.Proxy = operator.getitem(proxy, key)
    return found


def check_value(given: Any, bound: Any, name: str) -> None:
    """Raise ProactError unless an argument of a rewritten forward equals the bound value."""
    if isinstance(given, Tensor) or given != bound:
        shown = "a tensor" if isinstance(given, Tensor) else repr(given)
        raise ProactError(
            f"{name} was {short_repr(bound)} when the activations were found, and is {shown} now: "
            "find the sites (protect the model) with inputs that it gets later"
        )


def check_length(given: Any, bound: int, name: str) -> None:
    """Raise ProactError unless a list of a rewritten forward has the bound length."""
    if given is None or isinstance(given, Tensor) or len(given) != bound:
        shown = "no list" if given is None or isinstance(given, Tensor) else str(len(given))
        raise ProactError(
            f"{name} had {bound} elements when the activations were found, and has {shown} now: "
            "find the sites (protect the model) with inputs that it gets later"
        )
