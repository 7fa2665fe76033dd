"""Forward hooks that feed the sites of a model to their states: `attach(model)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from maxact_kernels import ProbeState

from .coverage import check, coverage
from .experts import find_all_sites
from .groups import POSITION_0, summarize
from .modules import modules_of
from .offload import input_device
from .scalars import scalars
from .site_states import Key, SiteStates
from .sites import Site
from .split import Shards
from .tokens import Given, Named, TokenNamer, Tokens
from .wiring import Wiring, is_wired, unwrapped

if TYPE_CHECKING:
    from .run import Run


def attach(
    model: nn.Module,
    sites: str | Iterable[str] = "default",
    *,
    skip_first: int = 0,
    position_0: bool = False,
    n_samples: int = 0,
    topk: int = 100,
    t_abs: float = 100.0,
    t_ratio: float = 1000.0,
    counts: bool = True,
    medians: bool = True,
    int8_per_token: bool = False,
    backend: str | None = None,
) -> Probe:
    """Measure what passes the sites of a model, until the `with` block ends or `detach` is called.

    sites: "default", "gemm" (with every expert), or site names and patterns (`find_all_sites`). skip_first: leave out
    the first so many tokens of each sample. position_0: of the residual stream, count the first token of each sample
    also on its own (`Probe.groups`). The other options are those of `ProbeState`. Only forward passes of the model, its
    decoder, or what lies between are measured, and only tokens that the 2-D attention mask keeps. The model's outputs
    do not change.

    Raises ValueError or TypeError if an option is not what it must be, the sites cannot be found, or another probe is
    attached to the model.
    """
    options = dict(
        n_samples=n_samples,
        topk=topk,
        t_abs=t_abs,
        t_ratio=t_ratio,
        counts=counts,
        medians=medians,
        int8_per_token=int8_per_token,
        backend=backend,
    )
    if isinstance(skip_first, bool) or not isinstance(skip_first, int):
        raise TypeError(f"skip_first: {skip_first!r}, expected a number of tokens")
    if skip_first < 0:
        raise ValueError(f"skip_first: {skip_first}, expected 0 or more")
    if skip_first and position_0:
        raise ValueError(f"position_0: left out by skip_first={skip_first}; choose one of them")
    return Probe(unwrapped(model), sites, options, TokenNamer(skip_first, position_0))


class Snapshot(NamedTuple):
    """What `Probe.snapshot` keeps; the copies of the states lie in the probe and serve its latest snapshot only."""

    states: tuple[Key, ...]  # that there were
    next_sample: torch.Tensor | None
    samples: torch.Tensor | None
    pending: Named


class Probe:
    """The hooks of one model and the states that they feed; made by `attach`. Tokens are named by a `TokenNamer`."""

    def __init__(self, model: nn.Module, sites: str | Iterable[str], options: dict, namer: TokenNamer):
        if is_wired(model):
            raise ValueError(
                f"model: another probe is attached to this {type(model).__name__}; leave its `with` block or call its "
                "detach() first"
            )
        self.model = model
        self.site_map = find_all_sites(model, sites)
        device = input_device(model)
        ProbeState(1, torch.float32, device, **options)  # a bad option is an error here, not in a forward pass

        self._states = SiteStates(options, Shards(model, self.site_map.sites))
        self._entered: int | None = None  # place of the outermost module of the forward pass that is running
        self._tokens: Tokens | None = None  # of that forward pass
        self._seen: set[int] = set()  # places of the sites that have fired in it
        self._last = max((i for i, site in enumerate(self.site_map.sites) if site.kind == "hidden"), default=None)
        self._pending = Named()  # from batch()
        self._namer = namer
        self._latest: Snapshot | None = None
        self._wiring: Wiring | None = Wiring(self, device, self._say_mask)

    def __enter__(self) -> Probe:
        if self._wiring is None:
            raise RuntimeError("this probe is detached; call maxact.attach(model) again")
        return self

    def __exit__(self, *error) -> None:
        self.detach()

    def detach(self) -> None:
        """Remove all hooks; the states stay. Once is enough, twice does no harm."""
        if self._wiring is not None:
            self._wiring.remove()
            self._wiring = None
        self._leave()

    @property
    def states(self) -> dict[str, ProbeState]:
        """The state of every site that has seen a tensor, in the order of the model."""
        return self._in_order(self._states.of_sites())

    @property
    def group_states(self) -> dict[str, dict[str, ProbeState]]:
        """By group and site: the states of the residual stream's tokens in that group, without tables and medians."""
        return {group: self._in_order(states) for group, states in self._states.of_groups().items()}

    @property
    def all_states(self) -> dict[Key, ProbeState]:
        """Every state that there is, by site and group (None: all tokens)."""
        return self._states.all()

    def groups(self) -> dict[str, dict[str, dict]]:
        """By group and site: absmax, n_tokens and n_massive_tokens of the residual stream's tokens in that group."""
        return summarize(self.group_states)

    def _in_order(self, states: dict[str, ProbeState]) -> dict[str, ProbeState]:
        return {site.name: states[site.name] for site in self.site_map.sites if site.name in states}

    def batch(
        self,
        attention_mask: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        groups: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Name the tokens of the next forward pass, and only of that one.

        attention_mask: [B, S] or longer with a key-value cache; 0 or False hides a token. By default what the forward
        pass is given. sample_ids: int64 [B], 0 to 2^31 - 1. By default rows are numbered as they arrive, and samples
        that begin within a row (position_ids that go back to 0) with them. groups: bool [B, S] by name, the tokens to
        count also on their own (`groups()`); a token may be in several or in none.

        Raises ValueError or TypeError if they are not this.
        """
        if attention_mask is not None:
            if not isinstance(attention_mask, torch.Tensor):
                raise TypeError(f"attention_mask: {type(attention_mask).__name__}, expected a torch.Tensor")
            if attention_mask.ndim != 2:
                raise ValueError(f"attention_mask: shape {list(attention_mask.shape)}, expected [batch, tokens]")
        if sample_ids is not None:
            if not isinstance(sample_ids, torch.Tensor) or sample_ids.dtype is not torch.int64:
                what = sample_ids.dtype if isinstance(sample_ids, torch.Tensor) else type(sample_ids).__name__
                raise TypeError(f"sample_ids: {what}, expected an int64 tensor")
            if sample_ids.ndim != 1:
                raise ValueError(f"sample_ids: shape {list(sample_ids.shape)}, expected [batch]")
            if sample_ids.device.type == "cpu" and ((sample_ids < 0) | (sample_ids >= 1 << 31)).any():
                raise ValueError(f"sample_ids: {sample_ids.tolist()}, expected 0 to 2^31 - 1")
        for name, members in (groups or {}).items():
            if name == POSITION_0 or not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64:
                raise ValueError(f"groups: {name!r}, expected a name of up to 64 characters other than {POSITION_0!r}")
            if not isinstance(members, torch.Tensor) or members.dtype is not torch.bool:
                what = members.dtype if isinstance(members, torch.Tensor) else type(members).__name__
                raise TypeError(f"groups: {name!r} is {what}, expected a bool tensor")
        self._leave()
        self._pending = Named(attention_mask, sample_ids, dict(groups or {}))

    def coverage(self) -> list[dict]:
        """A row a kind: kind, expected (sites found), fired, missing (their names), note (why layers have none)."""
        return coverage(self.site_map, self._states.of_sites())

    def modules(self) -> dict[str, dict]:
        """By site: at which end of which modules it stands (`modules_of`)."""
        return modules_of(self.model, self.site_map)

    def check(self) -> None:
        """Raises RuntimeError, naming the sites, if one saw no tensor, or is a router's and no logits."""
        if self._namer.next is None and not self.states:
            raise RuntimeError(
                f"no forward pass of {type(self.model).__name__} was seen; call the model or its decoder while attached"
            )
        check(self.site_map, self._states.of_sites())

    def run(self, provenance: dict | None = None) -> Run:
        """The run so far; `provenance` says more of where it comes from. Raises RuntimeError if a site saw no tensor."""
        from .run import Run

        self.check()
        return Run.from_probe(self, {"model": describe(self.model)} | (provenance or {}))

    def scalars(self) -> dict[str, float]:
        """What a training log wants, with one synchronisation for each device: `maxact/M` (routers left out),
        `maxact/n_nonfinite`, and by site `maxact/layer_3_hidden/absmax`, `/ratio_max` and `/n_massive_tokens`."""
        return scalars(self.states)

    def snapshot(self) -> Snapshot:
        """Keep everything as it is now, for `restore`. The copies go into the same memory each time."""
        self._latest = None
        namer, states = self._namer, self._states.snapshot()
        next_sample = None if namer.next is None else namer.next.clone()
        self._latest = Snapshot(states, next_sample, namer.samples, self._pending)
        return self._latest

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to the latest snapshot, bit for bit. Raises ValueError for any other: its copies are gone."""
        if snapshot is not self._latest:
            raise ValueError("snapshot: expected the latest of this probe; the copies of older ones are written over")
        self._states.restore(snapshot.states)
        namer = self._namer
        if snapshot.next_sample is None:
            namer.next = None
        else:
            namer.next.copy_(snapshot.next_sample)
        namer.samples, self._pending = snapshot.samples, snapshot.pending
        self._leave()

    def merge(self, states: Mapping[Key, ProbeState]) -> None:
        """Fold in states of these sites that saw other samples, elsewhere or earlier. Raises ValueError for others."""
        unknown = {name for name, _ in states} - {site.name for site in self.site_map.sites}
        if unknown:
            raise ValueError(f"{min(unknown)}: not one of the sites of this probe")
        self._states.merge(states)

    # What hooks and compiled code call: nothing waits for the device, and nothing of a tensor's size is made.

    def enter_at(self, place: int, given: Given) -> None:
        """A forward pass begins: of the model (place 0), its decoder (the last), or what lies between."""
        if self._entered not in (None, place) or self._wiring is None:
            return  # inside the forward pass of an outer module, which knew the mask
        self._leave()
        if torch._C._current_graph_task_id() != -1:
            return  # again for the backward pass: gradient checkpointing around the whole module
        named, self._pending = self._pending, Named()
        self._tokens = self._namer.name(given, named)
        self._entered = place

    def leave_at(self, place: int) -> None:
        """That forward pass is over."""
        if place == self._entered:
            self._leave()

    def _leave(self) -> None:
        self._entered = self._tokens = None
        self._seen.clear()

    def is_entered(self) -> bool:
        """Else a module is called on its own, or again for the backward pass (gradient checkpointing)."""
        return self._tokens is not None

    def see_at(self, place: int, x: torch.Tensor) -> None:
        """Fold in the tensor of the site at this place of the site map."""
        if self._tokens is None:
            return
        site = self.site_map.sites[place]
        if site.kind == "final_layernorm" and self._last is not None and self._last not in self._seen:
            return  # nanochat also calls it before the first layer
        if place in self._seen:
            raise ValueError(
                f"{site.name}: {site.path} runs more than once in a forward pass, so its tokens would count more than "
                "once; choose sites without it"
            )
        self._seen.add(place)
        _at(site, self._states.fold, site, x, self._tokens)

    def tokens_of(self, site: Site, hidden: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor] | None:
        """Mask and ids in 32 bits of the tokens given to a layer's experts, or None outside of a forward pass."""
        return None if self._tokens is None else _at(site, self._tokens.short, hidden)

    def see_experts_at(self, place: int, product: torch.Tensor, hidden: torch.Tensor, index: torch.Tensor) -> None:
        """Let the watch of the experts at this place of the site map see what compiled code computed."""
        if self._wiring is not None:
            self._wiring.watches[place].see_rows(product, hidden, index)

    def see_experts(self, site: Site, product: torch.Tensor, mask, token_ids: torch.Tensor, n_experts: int) -> None:
        """Fold in rows of a layer's experts."""
        _at(site, self._states.fold_experts, site, product, mask, token_ids, n_experts)

    def _say_mask(self, mask: torch.Tensor) -> None:
        if self._pending.attention_mask is None:
            self._pending = self._pending._replace(attention_mask=mask)


def _at(site: Site, do: Callable, *args):
    """What goes wrong says at which site it does."""
    try:
        return do(*args)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{site.name}: {error}") from None


def describe(model: nn.Module) -> dict:
    """What a model says of itself: its class, its type in transformers, the dtype of its weights."""
    return {
        "model_id": type(model).__name__,
        "model_type": getattr(getattr(model, "config", None), "model_type", None),
        "dtype": str(next((p.dtype for p in model.parameters()), None)).removeprefix("torch."),
    }
