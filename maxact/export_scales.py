"""Scales by module name, for quantizers: SmoothQuant's, compressed-tensors', and the largest |x| of every channel."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import safetensors.numpy

from .check import Quantizer, error_figures, is_projection_input
from .run import Run, plain, site_kind

# What compressed-tensors calls each format; by what a largest value is divided: half the range of the integers (-128 to
# 127), the largest float (`calculate_qparams` of compressed-tensors 0.20); and the largest value that then exists.
SCHEMES = {
    "int8": ({"num_bits": 8, "type": "int"}, 127.5, 127.0),
    "fp8_e4m3": ({"num_bits": 8, "type": "float"}, 448.0, 448.0),
}
EXPERTS = "experts_act"  # of all experts of a layer, whose weights are one tensor and no module each
_LONGEST_PATH = 512
_NO_HEAD = "lm_head is not among them: what the head is given is no site."


def smoothquant(run: Run) -> tuple[dict[str, bytes], list[str]]:
    """act_scales: the largest |x| of each input channel of each linear module, keys and values as SmoothQuant's."""
    scales: dict[str, np.ndarray] = {}
    for path, site in module_inputs(run):
        absmax = run.sites[site].channel_absmax
        scales[path] = np.maximum(scales[path], absmax) if path in scales else absmax
    notes = [
        "SmoothQuant reads a pickle; this is the same dictionary as safetensors: "
        "torch.save(safetensors.torch.load_file('act_scales.safetensors'), 'act_scales.pt') makes one of it.",
        _NO_HEAD,
        *_left_out(run),
    ]
    return {"act_scales.safetensors": _tensors(scales)}, notes


def input_scales(run: Run, *, quantize: str = "fp8_e4m3", threshold: str | float = "max"):
    """Static per-tensor input scales, float32 [1], named as compressed-tensors names them, and the scheme they are for.

    The figures beside them are of the scale that is written; with int8 and a threshold below the largest value they are
    a little less than the truth, as -128 is taken for -127.
    """
    if quantize not in SCHEMES:
        raise ValueError(f"quantize: {quantize!r}, expected one of {', '.join(SCHEMES)}")
    arguments, divisor, top = SCHEMES[quantize]
    scales: dict[str, np.ndarray] = {}
    rows: dict[str, dict] = {}
    for path, site in module_inputs(run):
        if site not in rows:
            summary = run.sites[site]
            thr = summary.quantization_error(quantize, threshold).threshold if summary.absmax else 0.0
            figures = error_figures(summary, Quantizer(quantize, thr / divisor * top)) if thr else {}
            rows[site] = {"threshold": thr, "modules": []} | figures
        rows[site]["modules"].append(path)
        name, scale = f"{path}.input_scale", rows[site]["threshold"] / divisor or np.finfo(np.float32).eps
        scales[name] = np.maximum(scales.get(name, 0), np.array([scale], dtype=np.float32))
    scheme = {
        "input_activations": arguments | {"strategy": "tensor", "symmetric": True, "dynamic": False},
        "threshold": threshold,
        "maxact": run.provenance.get("maxact"),
        "sites": rows,
    }
    preset = "the preset FP8" if quantize == "fp8_e4m3" else "a W8A8 of static per-tensor inputs"
    notes = [f"The scales fit {preset} of compressed-tensors; the weights and their scales are not here.", _NO_HEAD]
    files = {"input_scales.safetensors": _tensors(scales), "input_activations.json": _json(scheme)}
    return files, notes + _left_out(run)


def channel_absmax(run: Run) -> tuple[dict[str, bytes], list[str]]:
    """The largest |x| of each feature, float32 [d], by site."""
    if "imported" in run.provenance:
        raise ValueError("channel-absmax: the run was imported from files that hold no channels; measure the model")
    return {"channel_absmax.safetensors": _tensors({name: s.channel_absmax for name, s in run.sites.items()})}, []


def module_inputs(run: Run) -> Iterator[tuple[str, str]]:
    """(module path, site) for every linear module whose input was measured.

    Raises ValueError if the run does not say at which modules its sites stand, or has no input of a projection.
    """
    modules = run.provenance.get("modules")
    if not isinstance(modules, dict):
        raise ValueError(
            "this run does not say at which modules its sites stand: it is older than that record, or was imported; "
            "measure the model again with --sites gemm"
        )
    found = False
    for site in run.sites:
        if not is_projection_input(site) or site_kind(site) == EXPERTS or site not in modules:
            continue
        at = modules[site]
        paths = at.get("paths") if isinstance(at, dict) else None
        if not isinstance(paths, list) or not paths or not all(_is_path(path) for path in paths):
            raise ValueError(f"modules: {site}: expected paths of modules")
        for path in paths if at.get("end") == "input" and run.sites[site].n_elements else ():
            found = True
            yield path, site
    if not found:
        raise ValueError("this run has no inputs of projections; measure the model again with --sites gemm")


def _is_path(path) -> bool:
    return isinstance(path, str) and 0 < len(path) <= _LONGEST_PATH and path.isprintable()


def _left_out(run: Run) -> list[str]:
    """What a reader of the file might take for there."""
    experts = [name for name in run.sites if site_kind(name) == EXPERTS]
    if not experts:
        return []
    return [f"What experts compute ({len(experts)} sites) is left out: their weights are no module each."]


def _tensors(arrays: dict[str, np.ndarray]) -> bytes:
    # "pt" is what transformers asks of a file that it loads. A second key would come in another order each time.
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"format": "pt"}
    )


def _json(value: dict) -> bytes:
    return json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False).encode()
