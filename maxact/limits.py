"""The largest |x| that each format holds without a scale."""

from __future__ import annotations

import math

# IEEE 754 half precision; OCP 8-bit floating point, revision 1.0. fp16-square: the largest whose square is within fp16,
# which is what an RMSNorm computed in fp16 needs.
LIMITS = {"fp16": 65504.0, "fp16-square": math.sqrt(65504.0), "e4m3": 448.0, "e5m2": 57344.0}


def limit_of(text: str) -> float:
    """The largest |x| that a limit allows. Raises ValueError if it is neither a name nor a positive number."""
    if text in LIMITS:
        return LIMITS[text]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"limit: {text!r}, expected {', '.join(LIMITS)} or a positive number")
    return value
