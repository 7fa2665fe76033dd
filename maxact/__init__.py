"""How large the activations inside a language model get: `attach`, `measure`, `Run`."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

try:
    __version__ = _version("maxact")
except PackageNotFoundError:  # the sources without an installation
    __version__ = "unknown"

_HOME = {
    "attach": "hooks",
    "measure": "measurement",
    "Run": "run",
    "load_model": "models",
    "load_corpus": "corpus",
    "TrainerCallback": "trainer",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    # On first use, so that reading results needs neither PyTorch nor transformers.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
