"""The states that a probe feeds: one a site, one a group of tokens of the residual stream; and snapshots of them all."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from maxact_kernels import ProbeState

from .sites import Site
from .split import Shards
from .tokens import Tokens, refuse_capture

Key = tuple[str, str | None]  # a site's name, and a group of its tokens or None for all of them


class SiteStates:
    """States by site and group, made when the first tensor comes. Tokens of a group are counted with all others too."""

    def __init__(self, options: dict, shards: Shards):
        self._options = options
        self._shards = shards
        # Of a group only the largest value and the massive tokens are wanted: one small read more of its tokens.
        self._lean = options | dict(topk=1, n_samples=0, counts=False, medians=False, int8_per_token=False)
        self._states: dict[Key, ProbeState] = {}
        self._spares: dict[Key, torch.Tensor] = {}  # copies of the states' buffers, for the latest snapshot

    def fold(self, site: Site, x: torch.Tensor, tokens: Tokens) -> None:
        """Fold a site's tensor in. Raises TypeError or ValueError if it is not one of these tokens' tensors."""
        x = self._shards.whole(site, x)
        mask, token_ids, groups = tokens.like(x)
        self._state((site.name, None), x, self._options).update(x, mask, token_ids)
        if site.kind == "hidden":
            for group, members in groups.items():
                self._state((site.name, group), x, self._lean).update(x, members, token_ids)

    def fold_experts(self, site: Site, product: torch.Tensor, mask, token_ids: torch.Tensor, n_experts: int) -> None:
        """Fold rows of experts in. Their token ids have the expert where those of other sites have the sample."""
        product = self._shards.whole(site, product)
        self._state((site.name, None), product, self._options | {"n_samples": n_experts}).update(product, mask, token_ids)

    def _state(self, key: Key, x: torch.Tensor, options: dict) -> ProbeState:
        state = self._states.get(key)
        if state is None:
            refuse_capture(x.device)
            state = self._states[key] = ProbeState(x.shape[-1], x.dtype, x.device, **options)
        return state

    def all(self) -> dict[Key, ProbeState]:
        return dict(self._states)

    def merge(self, states: Mapping[Key, ProbeState]) -> None:
        """Fold in states that saw other tokens. Raises ValueError, naming the site, if one has other options."""
        for key, state in states.items():
            try:
                if key in self._states:
                    self._states[key].merge(state)
                else:
                    self._states[key] = state
            except ValueError as error:
                raise ValueError(f"{key[0]}: {error}") from None

    def of_sites(self) -> dict[str, ProbeState]:
        """By the site's name, in the order of arrival."""
        return {name: state for (name, group), state in self._states.items() if group is None}

    def of_groups(self) -> dict[str, dict[str, ProbeState]]:
        """By group, then by the site's name, in the order of arrival."""
        found: dict[str, dict[str, ProbeState]] = {}
        for (name, group), state in self._states.items():
            if group is not None:
                found.setdefault(group, {})[name] = state
        return found

    def snapshot(self) -> tuple[Key, ...]:
        """Keep a copy of every state, over the copies of the last time; returns which there are."""
        with torch.inference_mode(False):  # a copy made in inference mode could not be written over outside it
            for key, state in self._states.items():
                if key in self._spares:
                    self._spares[key].copy_(state.buffer)
                else:
                    self._spares[key] = state.buffer.clone()
        return tuple(self._states)

    def restore(self, keys: tuple[Key, ...]) -> None:
        """Go back to the copies of the states that there were, bit for bit."""
        for key in list(self._states):
            if key in keys:
                self._states[key].buffer.copy_(self._spares[key])
            else:
                del self._states[key]
