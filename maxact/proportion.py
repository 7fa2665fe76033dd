"""Shares of a whole number that are whole numbers themselves."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key", str, int)


def proportional(counts: dict[Key, int], n: int) -> dict[Key, int]:
    """n shared out in proportion to the counts, by largest remainder; equal remainders in the order of the keys."""
    total = sum(counts.values())
    quota = {key: count * n // total for key, count in sorted(counts.items())}
    by_remainder = sorted(quota, key=lambda key: -(counts[key] * n % total))
    for key in by_remainder[: n - sum(quota.values())]:
        quota[key] += 1
    return quota
