"""What a user would use today in place of fused_probe: the fastest plain PyTorch found for each part, and calibrators."""

from __future__ import annotations

from collections.abc import Callable

import torch


def aminmax(x: torch.Tensor):
    """Signed extremes alone."""
    return torch.aminmax(x)


def absmax(x: torch.Tensor):
    """The largest magnitude alone."""
    return x.abs().amax()


def histogram(x: torch.Tensor):
    """512 bins of magnitudes; its counts are float32 and stop at 2^24."""
    return torch.histc(x.abs().float(), 512)


def abs_sum(x: torch.Tensor):
    """Mean magnitude alone, accumulated in float32."""
    return x.abs().float().sum()


def row_median(x: torch.Tensor):
    """Exact lower medians of |x| by token; integers of 16 bits sort as magnitudes do, and faster than bfloat16."""
    if x.dtype == torch.float32:
        return x.abs().median(-1).values
    return (x.view(torch.int16) & 0x7FFF).median(-1).values.view(x.dtype)


def count_magnitudes(x: torch.Tensor):
    """How often every magnitude occurs."""
    keys = (x.view(torch.int32) & 0x7FFFFFFF) >> 16 if x.dtype == torch.float32 else x.view(torch.int16) & 0x7FFF
    return torch.bincount(keys.flatten(), minlength=32768)


def topk(x: torch.Tensor, k: int = 100):
    """The k largest |x| with coordinates: they lie in the k tokens with the largest maxima."""
    absolute = x.abs()
    tokens = absolute.amax(-1).topk(min(k, len(x))).indices
    values, flat = absolute[tokens].flatten().topk(k)
    return values, tokens[flat // x.shape[-1]], flat % x.shape[-1]


def eager(x: torch.Tensor):
    """All that fused_probe gives on a finite tensor without padding, by whole-tensor operations."""
    absolute = x.abs()
    token_max = absolute.amax(-1)
    median = row_median(x)
    ratio = token_max.float() / median.float()
    massive = (token_max > 100) & (ratio > 1000)
    in_massive = absolute[massive].float()
    return {
        "extremes": torch.aminmax(x),
        "finite": torch.isfinite(token_max).all(),
        "n_absmax": (absolute == absolute.max()).sum(),
        "topk": topk(x),
        "counts": count_magnitudes(x),
        "channel_absmax": absolute.amax(0),
        "sum": x.sum(dtype=torch.float32),
        "ratio": (ratio.max(0), ratio.mean(), ratio.std()),
        "ratio_table": torch.bincount(
            ((token_max.float().view(torch.int32) >> 21) - 412).clamp(0, 255) * 128
            + ((ratio.view(torch.int32) >> 21) - 508).clamp(0, 127),
            minlength=32768,
        ),
        "massive": (massive.sum(), ((in_massive > 100) & (in_massive > 1000 * median[massive].float()[:, None])).sum()),
    }


BASELINES = {
    "aminmax": aminmax,
    "abs().amax()": absmax,
    "abs().float().sum()": abs_sum,
    "row median": row_median,
    "counts": count_magnitudes,
    "histc(|x|.float(), 512)": histogram,
    "top-100": topk,
    "eager, all statistics": eager,
}


def calibrators() -> dict[str, Callable[[torch.Tensor], object]]:
    """What libraries of quantization watch activations with, as they do it; prints why one is left out."""
    found = {}
    try:
        from modelopt.torch.quantization.calib import HistogramCalibrator, MaxCalibrator

        found["modelopt MaxCalibrator"] = MaxCalibrator().collect  # absmax
        found["modelopt HistogramCalibrator"] = HistogramCalibrator().collect  # 2048 bins of magnitudes
    except ImportError as error:
        print(f"without the calibrators of nvidia-modelopt: {error}")
    try:
        from compressed_tensors.quantization import QuantizationArgs
        from llmcompressor.observers import StaticMinMaxObserver

        found["llm-compressor StaticMinMaxObserver"] = StaticMinMaxObserver("input", QuantizationArgs())  # extremes
    except ImportError as error:
        print(f"without the observer of llm-compressor: {error}")
    return found
