"""`update` inside compiled code: one graph, the same bits, gradients untouched."""

import pytest
import torch
from probes import assert_identical, every_backend, every_dtype, noise

from maxact_kernels import ProbeState, fused_probe

COMPILERS = ("eager", "aot_eager")  # inductor is run on the GPU, where compiling it pays


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()


@every_backend
@every_dtype
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_compiled_update_is_one_graph_and_gives_the_same_bits(place, dtype, compiler):
    x, mask = noise(6, 40, dtype=dtype), torch.tensor([1, 1, 0, 1, 1, 1]).bool()
    state = ProbeState(40, dtype, place.device, backend=place.backend)
    eager = ProbeState(40, dtype, place.device, backend=place.backend)

    def step(x, mask):
        y = x * 2
        state.update(y, mask)
        return y + 1

    compiled = torch.compile(step, fullgraph=True, backend=compiler)
    for _ in range(3):
        x, mask = place.move(x, mask)
        assert torch.equal(compiled(x, mask), x * 2 + 1)
        eager.update(x * 2, mask)
    assert_identical(state, eager)


@every_backend
@pytest.mark.parametrize("compiler", COMPILERS)
def test_gradients_pass_a_compiled_update_unchanged(place, compiler):
    state = ProbeState(8, torch.float32, place.device, backend=place.backend)
    (w,) = place.move(torch.linspace(-2, 2, 8))
    w.requires_grad_(True)

    def loss(w):
        h = torch.tanh(w)[None]
        state.update(h)
        return (h * h).sum()

    torch.compile(loss, fullgraph=True, backend=compiler)(w).backward()
    compiled = w.grad.clone()
    w.grad = None
    loss(w).backward()
    assert torch.equal(compiled, w.grad) and state.summary().n_tokens == 2


@every_backend
def test_tensors_under_autograd_autocast_and_inference_mode_are_measured_alike(place):
    (x,) = place.move(noise(5, 16, dtype=torch.float32))
    plain = fused_probe(x, backend=place.backend)
    with torch.autocast(torch.device(place.device).type, dtype=torch.bfloat16):
        assert_identical(fused_probe(x.clone().requires_grad_(True), backend=place.backend), plain)
    with torch.inference_mode():
        inside = fused_probe(x, backend=place.backend)
        assert_identical(inside, plain)
    inside.update(x)  # and is not bound to that mode
    assert inside.summary().n_tokens == 10


@every_backend
def test_the_operator_keeps_its_promises_to_pytorch(place):
    state = ProbeState(16, torch.float32, place.device, backend=place.backend)
    (x,) = place.move(noise(5, 16, dtype=torch.float32))
    torch.library.opcheck(torch.ops.maxact.update.default, (state.buffer.clone(), x, None, None, state.key))


def test_a_state_that_is_gone_is_a_sentence():
    state = ProbeState(4, torch.float32)
    buffer, key = state.buffer, state.key
    del state
    with pytest.raises(RuntimeError, match="a ProbeState that is gone"):
        torch.ops.maxact.update(buffer, torch.ones(1, 4), None, None, key)
