"""Which tokens of a forward pass count, and what they are called: sample << 32 | position."""

from __future__ import annotations

import torch


class TokenNamer:
    """Names the tokens of one forward pass after another.

    A token's position counts the real tokens of its sample, so that padding, left or right, changes no id. Samples are
    numbered as rows arrive, unless the caller names them; a forward pass that goes on from a key-value cache (mask
    longer than its tokens) keeps the samples of the one before.
    """

    def __init__(self):
        self.n_rows = 0  # that have arrived
        self.samples: torch.Tensor | None = None  # [B] of the last forward pass

    def name(self, given: dict, mask: torch.Tensor | None, samples: torch.Tensor | None) -> Tokens:
        """The tokens of a forward pass with these arguments; `mask` and `samples` are from batch(), or None."""
        name = "input_ids" if given.get("input_ids") is not None else "inputs_embeds"
        inputs = given.get(name)
        if inputs is None:
            raise ValueError("input_ids: missing, as is inputs_embeds; one of them must say what the tokens are")
        if inputs.ndim < 2:
            raise ValueError(f"{name}: shape {list(inputs.shape)}, expected [batch, tokens]")
        n_rows, n_tokens = inputs.shape[:2]

        if mask is None:
            mask = given.get("attention_mask")
            if mask is not None and not (isinstance(mask, torch.Tensor) and mask.ndim == 2):
                what = f"a {mask.ndim}-D tensor" if isinstance(mask, torch.Tensor) else f"a {type(mask).__name__}"
                raise ValueError(
                    f"attention_mask: {what}, from which the probe cannot tell the padding; give it the 2-D mask with "
                    "probe.batch(attention_mask, sample_ids) before this forward pass"
                )
        if mask is None:
            cache = given.get("past_key_values")
            n_cached = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0  # static caches hold a tensor
            goes_on = isinstance(n_cached, torch.Tensor) or n_cached > 0
            keep, positions = None, torch.arange(n_tokens, device=inputs.device) + n_cached  # [S]
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
            keep = keep[:, n_masked - n_tokens :].contiguous()

        if samples is not None and len(samples) != n_rows:
            raise ValueError(f"sample_ids: {len(samples)} of them, expected {n_rows} for the rows of {name}")
        goes_on = goes_on and self.samples is not None and len(self.samples) == n_rows
        if samples is None:
            first = self.n_rows
            samples = self.samples if goes_on else torch.arange(first, first + n_rows, device=positions.device)
        if not goes_on:
            self.n_rows += n_rows
        self.samples = samples = _to(samples, positions.device)
        return Tokens(keep, ((samples[:, None] << 32) + positions).contiguous())


class Tokens:
    """The tokens of one forward pass: which of them count, and their ids; on each device that asks."""

    def __init__(self, mask: torch.Tensor | None, ids: torch.Tensor):
        self._home = ids.device
        self._on = {ids.device: (mask, ids)}  # [B, S] each; no mask: all count

    def like(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Mask and ids for a site's tensor [B, S, d] or [B * S, d], with its leading shape, on its device."""
        if x.device not in self._on:
            self._on[x.device] = tuple(None if t is None else _to(t, x.device) for t in self._on[self._home])
        mask, ids = self._on[x.device]
        if x.shape[:-1] == ids.shape:
            return mask, ids
        if x.shape[:-1] == (ids.numel(),):
            return None if mask is None else mask.view(-1), ids.view(-1)
        raise ValueError(
            f"a tensor of shape {list(x.shape)}, expected [{ids.shape[0]}, {ids.shape[1]}, d] or [{ids.numel()}, d] "
            "like the tokens of this forward pass"
        )


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # Copies to a device are ordered before what it does next; the host must wait for copies to itself.
    return tensor.to(device, non_blocking=device.type != "cpu")
