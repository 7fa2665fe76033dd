"""A snapshot of a probe brings back everything, to the bit."""

from __future__ import annotations

import pytest
import torch
from tiny_models import EMBEDDING, assert_same_bits, buffers, grid, ids_of, one_thread, random_ids, tiny  # noqa: F401

from maxact.hooks import attach

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("inference", [False, True])
def test_restore_gives_the_bits_of_never_having_run_the_batch(inference):
    model, ids = tiny("llama"), [random_ids(2, 4, seed=seed) for seed in range(3)]
    grad_mode = torch.inference_mode if inference else torch.no_grad
    with grad_mode(), attach(model, topk=20, n_samples=4) as plain:
        model(ids[0])
        model(ids[2])
    with attach(model, topk=20, n_samples=4) as probe:
        with grad_mode():
            model(ids[0])
            before = probe.snapshot()
            handle = model.model.layers[1].register_forward_pre_hook(lambda module, args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(ids[1])
            handle.remove()
        assert not torch.equal(probe.states["layer_0_hidden"].buffer, probe._states._spares["layer_0_hidden", None])
        probe.restore(before)
        with grad_mode():
            model(ids[2])
    assert_same_bits(buffers(probe), buffers(plain))


def test_restore_after_ctrl_c_lets_the_decoder_name_its_own_tokens():
    """PyTorch calls no hook when a KeyboardInterrupt leaves a forward pass, so the probe is not told that it ended."""
    model = tiny("llama")

    def interrupt(module, args):
        raise KeyboardInterrupt

    handle = model.model.layers[1].register_forward_pre_hook(interrupt)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        before = probe.snapshot()
        with pytest.raises(KeyboardInterrupt):
            model(random_ids(2, 4))
        probe.restore(before)
        handle.remove()
        model.get_decoder()(random_ids(1, 3))
    assert ids_of(probe) == grid([0], 3)


def test_restore_to_before_the_first_batch_removes_the_states():
    model = tiny("llama")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        before = probe.snapshot()
        model(random_ids(2, 3))
        probe.restore(before)
        assert probe.states == {}
        model(random_ids(1, 2))
    assert ids_of(probe) == grid([0], 2)


def test_restore_brings_back_the_batch_that_was_named():
    model = tiny("llama")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        probe.batch(sample_ids=torch.tensor([5]))
        before = probe.snapshot()
        for _ in range(2):
            probe.restore(before)
            model(random_ids(1, 2))
    assert ids_of(probe) == grid([5], 2)
    assert probe.states["embedding_output"].summary().n_tokens == 2


def test_snapshots_reuse_their_memory_and_only_the_latest_can_be_restored():
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        model(random_ids(2, 3))
        with torch.inference_mode():
            older = probe.snapshot()
        addresses = {name: spare.data_ptr() for name, spare in probe._states._spares.items()}
        model(random_ids(2, 3, seed=1))
        latest = probe.snapshot()
        assert {name: spare.data_ptr() for name, spare in probe._states._spares.items()} == addresses
        with pytest.raises(ValueError, match="^snapshot: expected the latest of this probe"):
            probe.restore(older)
        kept = buffers(probe)
        model(random_ids(2, 3, seed=2))
        probe.restore(latest)
    assert_same_bits(buffers(probe), kept)
