"""What the experts of a layer compute: the site `layer_{i}_experts_act`, the product given to each down projection.

One state a layer holds all its experts: the upper half of a token id is the expert, so what elsewhere is known of each
sample (absmax, tokens, massive tokens) is known of each expert. The lower half names the token, `Tokens.short`.

Seen through the experts interface of transformers 5. `grouped_mm` and `batched_mm` compute the product of all rows at
once in `_apply_gate` (`act_fn` where there is no gate); the order of their rows is found by trying them. The eager loop
takes one expert after another, and is seen where it takes an expert's rows and its down projection.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .replaced import Replaced
from .sites import Site, SiteMap, _note, find_sites
from .spread_experts import spread_of

KIND = "experts_act"
_EAGER = (None, "eager")
_WEIGHTS = (torch.bfloat16, torch.float16, torch.float32)


# Which layers have such a site


def find_all_sites(model: nn.Module, sites: str | Iterable[str] = "default") -> SiteMap:
    """The sites of `find_sites`, and in "gemm" and for patterns those of the experts. Raises ValueError as it does."""
    if sites == "default":
        return find_sites(model, sites)
    patterns = None if isinstance(sites, str) else list(sites)
    whole = find_sites(model, sites if patterns is None else "gemm")
    experts, reasons = _find_experts(model, whole)
    together = tuple(_in_order(whole.sites, experts))
    note = _note(reasons, len(model.get_submodule(whole.layers)))
    if patterns is None:
        is_moe = experts or reasons.keys() - {_NO_EXPERTS}
        return replace(whole, sites=together, notes=whole.notes | ({KIND: note} if is_moe else {}))

    layers = range(len(model.get_submodule(whole.layers)))
    of_experts = [p for p in patterns if isinstance(p, str) and any(fnmatchcase(_name(i), p) for i in layers)]
    others = [p for p in patterns if p not in of_experts or _matches(p, whole.sites)]
    unmet = next((p for p in of_experts if not _matches(p, together)), None)
    if unmet is not None:
        raise ValueError(f"sites: {unmet!r} matches no site of {type(model).__name__}: {note}")
    chosen = find_sites(model, others) if others or not patterns else replace(whole, sites=(), notes={})
    names = {site.name for site in chosen.sites}
    names |= {site.name for site in experts if any(fnmatchcase(site.name, p) for p in of_experts)}
    notes = chosen.notes | ({KIND: note} if of_experts else {})
    return replace(chosen, sites=tuple(site for site in together if site.name in names), notes=notes)


_NO_EXPERTS = "no experts"


def _find_experts(model: nn.Module, site_map: SiteMap) -> tuple[list[Site], dict[str, list[int | None]]]:
    """The sites, and by reason the layers that have none."""
    found, reasons = [], {}
    for i, layer in enumerate(model.get_submodule(site_map.layers)):
        try:
            path = _experts_path(layer)
        except LookupError as error:
            reasons.setdefault(error.args[0], []).append(i)
        else:
            found.append(Site(_name(i), KIND, i, f"{site_map.layers}.{i}.{path}", "product"))
    return found, reasons


def _experts_path(layer: nn.Module) -> str:
    """Where in a layer its experts are; LookupError with the reason if their products cannot be seen."""
    found = [(path, module) for path, module in layer.named_modules() if hasattr(module, "is_concatenated")]
    if not found:
        others = [
            type(module).__name__
            for path, module in layer.named_modules()
            if path.rpartition(".")[2] == "experts" or "experts" in type(module).__name__.lower()
        ]
        raise LookupError(f"{others[0]} goes around the experts interface of transformers" if others else _NO_EXPERTS)
    if len(found) > 1:
        raise LookupError(f"more than one set of experts: {', '.join(path for path, _ in found)}")
    path, experts = found[0]
    implementation = experts.config._experts_implementation
    is_spread = getattr(experts, "_is_expert_parallel", False)
    if is_spread and (implementation in _EAGER or spread_of(experts) is None):
        raise LookupError("the experts are spread over processes")
    if experts.down_proj.dtype not in _WEIGHTS:
        raise LookupError(f"the experts' weights are {str(experts.down_proj.dtype).removeprefix('torch.')}")
    if implementation not in _EAGER and row_order(implementation) is None:
        raise LookupError(f"the order of rows of the experts implementation {implementation!r} is not known")
    return path


def _name(layer: int) -> str:
    return f"layer_{layer}_{KIND}"


def _matches(pattern: str, sites: Iterable[Site]) -> bool:
    return any(fnmatchcase(site.name, pattern) for site in sites)


def _in_order(sites: Iterable[Site], experts: list[Site]) -> Iterable[Site]:
    """Each layer's experts before what they become part of."""
    left = {site.layer: site for site in experts}
    for site in sites:
        if site.kind in ("mlp_output", "hidden") and site.layer in left:
            yield left.pop(site.layer)
        yield site
    yield from left.values()


# In which order an implementation computes its rows


def _by_expert(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    experts, order = torch.sort(index.reshape(-1))  # as grouped_mm sorts them, which need not be stable
    return order // index.shape[-1], experts


def _by_token(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    experts = index.reshape(-1)
    return torch.arange(len(experts), device=index.device) // index.shape[-1], experts


@lru_cache
def row_order(implementation: str) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None:
    """From the experts of each token [n, k] to (token, expert) of each row of the product, as this implementation of
    the experts interface orders its rows: found by trying it on the CPU. None if it cannot be tried or has another."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    index = torch.tensor([[2, 0], [0, 1], [2, 1], [1, 2], [0, 2]], device="cpu")
    hidden = torch.zeros(len(index), 16, device="cpu")
    hidden[:, 0] = torch.arange(1, len(index) + 1, device="cpu")
    gate_up = torch.zeros(3, 32, 16, device="cpu")
    gate_up[:, 0, 0], gate_up[:, 1, 0] = 1, torch.arange(3, device="cpu")  # of token t by expert e: t + 1, (t + 1) * e
    rows = []

    def see(product: torch.Tensor) -> torch.Tensor:
        rows.append(product)
        return product[:, :16]

    experts = SimpleNamespace(
        num_experts=3, gate_up_proj=gate_up, down_proj=torch.zeros(3, 16, 16, device="cpu"), _apply_gate=see,
        has_gate=True, has_bias=False, has_post_expert_norm=False, is_transposed=False, is_concatenated=True,
        _is_expert_parallel=False,
    )  # fmt: skip
    try:
        with torch.no_grad():
            ALL_EXPERTS_FUNCTIONS[implementation](experts, hidden, index, torch.ones(index.shape, device="cpu"))
        (seen,) = rows
        tokens, chosen = (seen[:, 0] - 1).long(), (seen[:, 1] / seen[:, 0]).long()
    except Exception:  # whatever an implementation asks for that is not here
        return None
    for order in (_by_expert, _by_token):
        if all(torch.equal(mine, theirs) for mine, theirs in zip(order(index), (tokens, chosen), strict=True)):
            return order
    return None


# Watching them


class Watch:
    """Sees the products of one module of experts, and changes nothing, until `remove`."""

    def __init__(self, experts: nn.Module, tokens_of: Callable, see: Callable, emit: Callable):
        """tokens_of: from the tokens' hidden states to (mask, ids in 32 bits), or None if they are not to be seen.
        see: is given the product [rows, features], mask and token ids of its rows, and how many experts there are.
        emit: in traced code, is given the product, hidden states and experts of the tokens, to call `see_rows` later."""
        self._experts, self._tokens_of, self._see, self._emit = experts, tokens_of, see, emit
        self._spread = spread_of(experts) if getattr(experts, "_is_expert_parallel", False) else None
        self._n_experts = experts.down_proj.shape[0]
        self._parameters = list(inspect.signature(experts.forward).parameters)
        self._routed: tuple | None = None  # hidden states, and experts of each token: of the call that is running
        self._watch_loop = torch.compiler.disable(self._watch_loop)  # nothing compiles it whole: how often it runs is data
        self._replaced = [
            Replaced(experts, "forward", self._forward),
            Replaced(experts, "_apply_gate" if experts.has_gate else "act_fn", self._product),
        ]

    def remove(self) -> None:
        while self._replaced:
            self._replaced.pop().remove()

    def _forward(self, original: Callable, *args, **kwargs):
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        hidden, index = (given[name] for name in self._parameters[:2])
        if self._experts.config._experts_implementation in _EAGER:
            return self._watch_loop(hidden, original, *args, **kwargs)
        self._routed = hidden, index
        try:
            return original(*args, **kwargs)
        finally:
            self._routed = None

    def _watch_loop(self, hidden: torch.Tensor, original: Callable, *args, **kwargs):
        tokens = self._tokens_of(hidden)
        if tokens is None:
            return original(*args, **kwargs)
        with _Loop(self._experts, hidden, lambda x, token, expert: self._fold(x, token, expert, *tokens)):
            return original(*args, **kwargs)

    def _product(self, original: Callable, *args, **kwargs):
        product = original(*args, **kwargs)
        if self._routed is not None:
            (self._emit if torch.compiler.is_compiling() else self.see_rows)(product, *self._routed)
        return product

    def see_rows(self, product: torch.Tensor, hidden: torch.Tensor, index: torch.Tensor) -> None:
        """The product of all rows [rows, features], by the hidden states of the tokens and their experts [n, k]."""
        tokens, order = self._tokens_of(hidden), row_order(self._experts.config._experts_implementation)
        if tokens is not None and order is not None:
            if self._spread is not None:
                product, order = self._spread.whole(product, index, order), _by_token
            self._fold(product, *order(index), *tokens)

    def _fold(self, product, token, expert, mask, ids) -> None:
        mask = None if mask is None else mask[token]
        upper = (expert.long() if isinstance(expert, torch.Tensor) else expert) << 32
        self._see(product, mask, upper | ids[token], self._n_experts)


class _Loop(TorchFunctionMode):
    """Sees the eager loop: `hidden[tokens]` and `down_proj[expert]`, and what is multiplied with the latter."""

    def __init__(self, experts: nn.Module, hidden: torch.Tensor, see: Callable):
        super().__init__()
        self._experts, self._hidden, self._see = experts, hidden, see
        self._token = self._expert = self._weight = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.Tensor.__getitem__:
            if args[0] is self._hidden:
                self._token = args[1]
            elif args[0] is self._experts.down_proj:
                self._expert, self._weight = args[1], result
        elif self._weight is not None and any(arg is self._weight for arg in args):
            others = [arg for arg in args if isinstance(arg, torch.Tensor) and arg is not self._weight]
            if others:
                self._weight = None
                self._see(others[0], self._token, self._expert)
            else:
                self._weight = result  # in another dtype
        return result
