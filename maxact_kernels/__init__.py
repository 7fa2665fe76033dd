"""Everything about the magnitudes of a tensor in one read: `fused_probe(x)`."""

_HOME = {"fused_probe": "state", "ProbeState": "state", "backends": "dispatch"}
__all__ = list(_HOME)


def __getattr__(name: str):
    # On first use, so that what only reads results starts without PyTorch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
