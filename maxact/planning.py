"""Which samples go together through a model: batches are planned first, the same however they are then dealt or cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from .encoding import Encoded


def plan(encoded: Sequence[Encoded], tokens_per_batch: int) -> list[list[int]]:
    """Batches of sample indices, longest samples first, each at most tokens_per_batch with its padding (or one sample)."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    batches: list[list[int]] = []
    for i in order:
        if batches and len(encoded[batches[-1][0]].ids) * (len(batches[-1]) + 1) <= tokens_per_batch:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def pack_samples(samples: Collection[int]) -> str:
    """A set of sample indices as text: a million of them in 250 KB."""
    held = np.zeros(max(samples, default=-1) + 1, dtype=bool)
    held[list(samples)] = True
    return np.packbits(held).tobytes().hex()


def unpack_samples(text: str) -> list[int]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8)).nonzero()[0].tolist()


class Work:
    """The batches that one process has yet to measure, and the samples that it has measured.

    Of all `batches` the n-th is for process n mod `size`; the samples of `earlier` were measured before. What a batch
    is made of depends on the plan and the budget alone, never on what was measured before or elsewhere: when memory runs
    out, each batch is cut within itself.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        batches: Sequence[list[int]],
        budget: int,
        earlier: Collection[int] = (),
        rank: int = 0,
        size: int = 1,
    ):
        self.encoded = encoded
        self.budget = budget  # tokens of a forward pass, padding included
        self.earlier = earlier
        self.any_batch = batches[-1] if batches else []  # a short one, for a process that goes along
        self.done: list[int] = []
        self.n_tokens = 0  # of what is done
        self.n_tokens_total = sum(self.length(i) for batch in batches for i in batch)  # of all processes
        left = ([i for i in batch if i not in earlier] for batch in batches[rank::size])
        self._left = deque(batch for batch in left if batch)

    def next(self) -> list[int] | None:
        """The samples of the next forward pass, the longest first; None when there are none left."""
        return self._left[0][: self._that_fit(self._left[0])] if self._left else None

    def finish(self, samples: list[int]) -> None:
        """These samples, the latest that `next` gave, have been measured."""
        rest = self._left[0][len(samples) :]
        if rest:
            self._left[0] = rest
        else:
            self._left.popleft()
        self.done += samples  # in one step: an interruption finds them measured or not
        self.n_tokens += sum(map(self.length, samples))

    def halve(self, samples: list[int]) -> None:
        """These were too many at once: half as many tokens from now on, but at least one sample."""
        self.budget = max(self.n_padded(samples) // 2, self.length(samples[0]))

    def length(self, sample: int) -> int:
        return len(self.encoded[sample].ids)

    def n_padded(self, samples: list[int]) -> int:
        return len(samples) * self.length(samples[0])

    def _that_fit(self, batch: list[int]) -> int:
        return max(1, self.budget // self.length(batch[0]))
