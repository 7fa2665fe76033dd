"""Which tokens of a forward pass count, what they are called (sample << 32 | position), and which groups they are in."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .groups import POSITION_0
from .run import UNNAMED


class Given(NamedTuple):
    """What a forward pass is called with, as far as it names tokens."""

    name: str  # of `inputs`
    inputs: torch.Tensor | None  # input_ids [B, S] or inputs_embeds [B, S, d]
    attention_mask: torch.Tensor | None  # if it has two axes
    other_mask: str  # what it is otherwise, or ""
    position_ids: torch.Tensor | None
    n_cached: torch.Tensor | int  # tokens in the key-value cache; static caches hold a tensor

    @staticmethod
    def of(arguments: dict) -> Given:
        """Raises ValueError if they are such that tokens cannot be named."""
        if arguments.get("cache") is not None and "cu_seq_lens_q" in arguments:
            raise ValueError(
                "cache: a paged one, as generate_batch has it, where the steps of many samples share a row and no token can "
                "be named; measure generate instead"
            )
        name = "input_ids" if arguments.get("input_ids") is not None else "inputs_embeds"
        mask, cache = arguments.get("attention_mask"), arguments.get("past_key_values")
        other = ""
        if mask is not None and not (isinstance(mask, torch.Tensor) and mask.ndim == 2):
            other = f"a {mask.ndim}-D tensor" if isinstance(mask, torch.Tensor) else f"a {type(mask).__name__}"
            mask = None
        n_cached = cache.get_seq_length() if mask is None and hasattr(cache, "get_seq_length") else 0
        positions = arguments.get("position_ids")
        positions = positions if isinstance(positions, torch.Tensor) else None
        return Given(name, arguments.get(name), mask, other, positions, n_cached)


class Named(NamedTuple):
    """What batch() says of the next forward pass."""

    attention_mask: torch.Tensor | None = None
    sample_ids: torch.Tensor | None = None
    groups: dict[str, torch.Tensor] = {}


class TokenNamer:
    """Names the tokens of one forward pass after another.

    A token's position counts the real tokens of its sample, so that padding, left or right, changes no id. Samples are
    numbered as rows arrive, unless the caller names them. In a row whose position_ids go back to 0 (packed batches) a
    new sample begins there. A forward pass that goes on from a key-value cache keeps the samples of the one before.
    """

    def __init__(self, skip_first: int = 0, position_0: bool = False):
        self.skip_first, self.position_0 = skip_first, position_0
        # The number of the next sample, on the device, where packed rows (and a CUDA graph that is replayed) add to it
        # without the host; None before the first forward pass.
        self.next: torch.Tensor | None = None
        self.samples: torch.Tensor | None = None  # [B] that each row of the last forward pass ended with

    def name(self, given: Given, named: Named) -> Tokens:
        """The tokens of a forward pass with these arguments. Raises ValueError if they cannot be told."""
        name, inputs = given.name, given.inputs
        if inputs is None:
            raise ValueError("input_ids: missing, as is inputs_embeds; one of them must say what the tokens are")
        if inputs.ndim < 2:
            raise ValueError(f"{name}: shape {list(inputs.shape)}, expected [batch, tokens]")
        n_rows, n_tokens = inputs.shape[:2]
        mask = given.attention_mask if named.attention_mask is None else named.attention_mask
        if mask is None and given.other_mask:
            raise ValueError(
                f"attention_mask: {given.other_mask}, from which the probe cannot tell the padding; give it the 2-D mask "
                "with probe.batch(attention_mask, sample_ids) before this forward pass"
            )
        is_empty = None  # whether the cache is, where only the device knows
        if mask is None:
            goes_on = isinstance(given.n_cached, torch.Tensor) or given.n_cached > 0
            if isinstance(given.n_cached, torch.Tensor):
                is_empty = _to(given.n_cached == 0, inputs.device)
            keep, positions = None, torch.arange(n_tokens, device=inputs.device) + given.n_cached  # [S]
        else:
            n_masked = mask.shape[1]
            if len(mask) != n_rows or n_masked < n_tokens:
                raise ValueError(
                    f"attention_mask: shape {list(mask.shape)}, expected [{n_rows}, {n_tokens}] like {name}, or longer "
                    "with a key-value cache"
                )
            goes_on = n_masked > n_tokens
            keep = mask != 0
            positions = (keep.cumsum(-1) - 1)[:, n_masked - n_tokens :]  # [B, S]
            keep = keep[:, n_masked - n_tokens :]
        for group, members in named.groups.items():
            if members.shape != (n_rows, n_tokens):
                raise ValueError(
                    f"groups: {group!r} of shape {list(members.shape)}, expected [{n_rows}, {n_tokens}] like {name}"
                )
        samples = named.sample_ids
        if samples is not None and len(samples) != n_rows:
            raise ValueError(f"sample_ids: {len(samples)} of them, expected {n_rows} for the rows of {name}")

        goes_on = goes_on and self.samples is not None and len(self.samples) == n_rows
        if goes_on:
            samples = self._same_samples(samples, is_empty, n_rows, positions.device)
        else:
            samples, positions = self._new_samples(samples, positions, keep, given.position_ids, n_rows)
        groups = ({POSITION_0: positions == 0} if self.position_0 else {}) | named.groups
        if self.skip_first:
            late = positions >= self.skip_first
            keep = late if keep is None else keep & late
        shape = (n_rows, n_tokens)
        keep = None if keep is None else keep.expand(shape).contiguous()
        for group, members in groups.items():
            members = _to(members, positions.device).expand(shape)
            groups[group] = (members if keep is None else members & keep).contiguous()
        return Tokens(keep, ((samples << 32) + positions).contiguous(), groups)

    def _same_samples(self, samples, is_empty, n_rows: int, device: torch.device) -> torch.Tensor:
        """Those of the forward pass before [B, 1]; new ones where the cache turns out to be empty (a static one, reset)."""
        if samples is None:
            samples = _to(self.samples, device)
            if is_empty is not None:
                new = torch.arange(n_rows, device=device) + _to(self.next, device)
                samples = torch.where(is_empty, new, samples)
                self.next += _to(is_empty * n_rows, self.next.device)
        self.samples = _to(samples, device)
        return self.samples[:, None]

    def _new_samples(self, samples, positions, keep, position_ids, n_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples [B, 1] or [B, S], and positions in them [S] or [B, S]."""
        device = positions.device
        if self.next is None:
            refuse_capture(device)
            with torch.inference_mode(False):  # or it could not be added to outside inference mode
                self.next = torch.zeros((), dtype=torch.int64, device=device)
        first = _to(self.next, device)
        begun = None  # how many samples began within rows, up to each token
        if samples is None:
            samples = torch.arange(n_rows, device=device) + first
            if _is_packed(position_ids, positions, n_rows):
                positions, begun = _packed(position_ids, positions, keep, n_rows)
        samples = _to(samples, device)[:, None]
        self.next += n_rows
        if begun is not None:
            samples = samples + begun
            self.next += _to(begun[-1, -1], self.next.device)
        self.samples = samples[:, -1]
        return samples, positions


def _is_packed(position_ids: torch.Tensor | None, positions: torch.Tensor, n_rows: int) -> bool:
    """Whether position_ids could begin samples within rows; which, only the device knows."""
    return (
        position_ids is not None
        and position_ids.ndim == 2
        and position_ids.shape[1] == positions.shape[-1] > 0
        and position_ids.shape[0] in (1, n_rows)
        and n_rows > 0
    )


def _packed(position_ids, positions, keep, n_rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions within samples and the count of samples that began within rows so far, [B, S] each."""
    begins = (_to(position_ids, positions.device) == 0) & (positions > 0)  # at 0 the row's own sample begins
    begins = begins.expand(n_rows, -1) if keep is None else begins & keep
    at = torch.where(begins, positions, 0).cummax(-1).values
    begun = begins.flatten().cumsum(0).view(begins.shape)
    return positions - at, begun


class Tokens:
    """The tokens of one forward pass: which of them count, their ids, and groups; on each device that asks."""

    def __init__(self, mask: torch.Tensor | None, ids: torch.Tensor, groups: dict[str, torch.Tensor]):
        self._home = ids.device
        self._on = {ids.device: (mask, ids, groups)}  # [B, S] each; no mask: all count
        self._short: dict[torch.device, torch.Tensor] = {}

    def like(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, dict[str, torch.Tensor]]:
        """Mask, ids and groups for a site's tensor [B, S, d] or [B * S, d], with its leading shape, on its device."""
        if x.device not in self._on:
            mask, ids, groups = self._on[self._home]
            self._on[x.device] = (
                None if mask is None else _to(mask, x.device),
                _to(ids, x.device),
                {name: _to(members, x.device) for name, members in groups.items()},
            )
        mask, ids, groups = self._on[x.device]
        if x.shape[:-1] == ids.shape:
            return mask, ids, groups
        if x.shape[:-1] == (ids.numel(),):
            flat = {name: members.view(-1) for name, members in groups.items()}
            return None if mask is None else mask.view(-1), ids.view(-1), flat
        raise ValueError(
            f"a tensor of shape {list(x.shape)}, expected [{ids.shape[0]}, {ids.shape[1]}, d] or [{ids.numel()}, d] "
            "like the tokens of this forward pass"
        )

    def short(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Mask and ids in 32 bits, sample << 16 | position, for a tensor [B * S, d]; beyond 16 bits either is UNNAMED."""
        mask, ids, _ = self.like(x)
        if x.device not in self._short:
            sample, position = (ids >> 32).clamp(max=UNNAMED), (ids & 0xFFFFFFFF).clamp(max=UNNAMED)
            self._short[x.device] = sample << 16 | position
        return mask, self._short[x.device]


def refuse_capture(device: torch.device) -> None:
    """Raises RuntimeError where memory is to be made that a CUDA graph being captured would own, and empty each time."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a CUDA graph is being captured while a probe is attached that has seen no such forward pass; run the model "
            "once before the capture, so that the memory is there"
        )


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # Copies to a device are ordered before what it does next; the host must wait for copies to itself.
    return tensor.to(device, non_blocking=device.type != "cpu")
