"""Compiled models are measured as eager ones are, by the compiled code itself, whichever came first: attach or compile."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny_models import assert_same_bits, buffers, one_thread, random_ids, tiny  # noqa: F401
from torch._dynamo.backends.debugging import aot_eager

from maxact.compiled import HookGuards
from maxact.hooks import attach

pytestmark = pytest.mark.usefixtures("one_thread")

llama = partial(tiny, "llama", num_hidden_layers=1)  # tracing takes all the time
IDS, MASK = random_ids(2, 6), torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


class Compiler:
    """Keeps the traced graphs, and runs them as they are or (`below`) as what an AOT compiler is given."""

    def __init__(self, below=lambda graph, inputs: graph):
        self.graphs, self._below = [], below

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return self._below(graph, inputs)

    def n_sites(self) -> list[int]:
        """How many sites each graph that has one sees."""
        counts = []
        for graph in self.graphs:
            parts = (part for part in graph.modules() if isinstance(part, torch.fx.GraphModule))
            counts.append(sum(node.target is torch.ops.maxact.see for part in parts for node in part.graph.nodes))
        return [n for n in counts if n]


def measured(probe) -> dict:
    groups = probe.group_states["position_0"].items()
    return buffers(probe) | {f"position_0 {site}": state.buffer.clone() for site, state in groups}


def call(model):
    return model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits


def in_gemm(model, n_calls: int = 2, run=call) -> dict:
    with attach(model, "gemm", position_0=True) as probe:
        for _ in range(n_calls):
            run(model)
    return measured(probe)


@pytest.fixture(scope="module")
def plain() -> dict:
    with torch.no_grad():
        return in_gemm(llama())


N_SITES = 2 + 8


@pytest.mark.parametrize("below", [None, aot_eager], ids=["eager", "aot_eager"])
def test_attach_after_compiled_code_has_run(plain, below):
    model, compiler = llama(), Compiler(below) if below else Compiler()
    compiled = torch.compile(model, backend=compiler, fullgraph=True)
    with torch.no_grad():
        call(compiled)
        assert compiler.n_sites() == []
        results = in_gemm(model, run=lambda model: call(compiled))
        assert compiler.n_sites() == [N_SITES]
        call(compiled)  # no longer measured
    assert_same_bits(results, plain)


def test_attach_before_a_function_that_calls_the_model_is_compiled(plain):
    model, compiler = llama(), Compiler()
    step = torch.compile(lambda: call(model), backend=compiler, fullgraph=True)
    with torch.no_grad(), attach(model, "gemm", position_0=True) as probe:
        step(), step()
    assert compiler.n_sites() == [N_SITES]
    assert_same_bits(measured(probe), plain)
    with torch.no_grad():
        step()
    assert_same_bits(measured(probe), plain)


@pytest.mark.parametrize("part", ["model", "layers"])
def test_parts_that_are_compiled_in_place(plain, part):
    model, compiler = llama(), Compiler()
    for module in {"model": [model], "layers": model.model.layers}[part]:
        module.compile(backend=compiler)
    with torch.no_grad():
        call(model)
        results = in_gemm(model)
    assert sum(compiler.n_sites()) >= 7  # hooks of the layer itself stand around its code
    assert_same_bits(results, plain)


def test_what_torch_compile_returns_can_be_attached_to(plain):
    whole, decoder, layer = llama(), llama(), llama()
    whole, decoder.model = torch.compile(whole, backend=Compiler()), torch.compile(decoder.model, backend=Compiler())
    layer.model.layers[0] = torch.compile(layer.model.layers[0], backend=Compiler())
    with torch.no_grad():
        for model in (whole, decoder, layer):
            assert_same_bits(in_gemm(model, run=call), plain)
        with attach(whole), pytest.raises(ValueError, match="another probe is attached to this LlamaForCausalLM"):
            attach(whole)


def test_another_model_of_the_same_classes_is_not_counted(plain):
    """The compiler may use one code for both; which hooks there are tells them apart."""
    mine, other = llama(), llama()
    compiled = [torch.compile(model, backend=Compiler()) for model in (mine, other)]
    with torch.no_grad():
        for model in compiled:
            call(model)
        with attach(mine, "gemm", position_0=True) as probe:
            for _ in range(2):
                for model in reversed(compiled):
                    call(model)
    assert_same_bits(measured(probe), plain)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_training_counts_once_and_has_the_same_gradients(plain, checkpointing):
    gradients = []
    for compile in (False, True):
        model, compiler = llama().train(), Compiler(aot_eager)
        if checkpointing:
            model.gradient_checkpointing_enable()
        run = torch.compile(model, backend=compiler) if compile else model
        results = in_gemm(model, run=lambda model: call(run).sum().backward())
        assert_same_bits(results, plain)
        gradients.append([p.grad for p in model.parameters()])
    assert compiler.n_sites() == [N_SITES]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_steps_from_a_cache_go_on_with_the_same_samples():
    model, compiler = llama(), Compiler()
    compiled = torch.compile(model, backend=compiler)

    def decode(model):
        cache = None
        for start, stop in ((0, 3), (3, 4), (4, 5), (5, 6)):
            cache = model(IDS[:, start:stop], past_key_values=cache).past_key_values

    with torch.no_grad():
        results = in_gemm(model, 1, lambda model: decode(compiled))
        assert_same_bits(results, in_gemm(model, 1, decode))
    assert set(compiler.n_sites()) == {N_SITES}


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
def test_experts_are_seen_too(implementation):
    """In the graph of the whole model; the loop of "eager" is none that a compiler takes, and is seen between graphs."""
    model, compiler = tiny("qwen3_moe", num_hidden_layers=1), Compiler()
    model.set_experts_implementation(implementation)
    compiled = torch.compile(model, backend=compiler, fullgraph=implementation != "eager")
    with torch.no_grad():
        results = in_gemm(model, run=lambda model: call(compiled))
        assert "layer_0_experts_act" in results and compiler.n_sites()
        assert_same_bits(results, in_gemm(model))


def test_errors_of_a_probe_pass_through_compiled_code(plain):
    model = llama()
    compiled = torch.compile(model, backend=Compiler())
    with torch.no_grad(), attach(model, "gemm", position_0=True) as probe:
        probe.batch(torch.ones(2, 3))
        with pytest.raises(ValueError, match=r"^attention_mask: shape \[2, 3\], expected \[2, 6\] like input_ids"):
            call(compiled)
        assert probe.states == {}
        call(compiled), call(compiled)
    assert_same_bits(measured(probe), plain)


def test_what_the_compiler_is_told_of_hooks_is_taken_back(monkeypatch):
    config = torch._dynamo.config
    monkeypatch.setattr(HookGuards, "_n_there", 0)  # whatever probes other tests have left
    with config.patch(skip_nnmodule_hook_guards=True):  # monkeypatch would delete it
        with attach(llama()):
            with attach(llama()):
                assert not config.skip_nnmodule_hook_guards
            assert not config.skip_nnmodule_hook_guards
        assert config.skip_nnmodule_hook_guards
        with pytest.raises(ValueError), attach(llama(), topk=0):
            pass
        assert config.skip_nnmodule_hook_guards


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor_on_a_gpu_sees_the_same_tokens(mode):
    """reduce-overhead: by CUDA graphs, where the compiler finds that it can. Values differ by what it fuses."""
    model, ids, mask = llama(torch.bfloat16).cuda(), IDS.cuda(), MASK.cuda()
    compiled = torch.compile(model, mode=mode)
    with torch.no_grad():
        results = []
        for run in (model, compiled):
            with attach(model, "gemm", position_0=True, n_samples=10) as probe:
                for _ in range(5):
                    run(input_ids=ids, attention_mask=mask, use_cache=False)
            results.append(probe)
    eager, inductor = results
    assert_same_bits({"": inductor.states["embedding_output"].buffer}, {"": eager.states["embedding_output"].buffer})
    for name, state in inductor.states.items():
        mine, theirs = state.summary(), eager.states[name].summary()
        assert (mine.n_tokens, mine.n_elements) == (theirs.n_tokens, theirs.n_elements) == (50, 50 * state.d), name
        assert mine.absmax == pytest.approx(theirs.absmax, rel=2**-4), name  # eight bits, a few roundings more or less
        assert (mine.sample_absmax > 0).all(), name
    assert inductor.groups()["position_0"]["layer_0_hidden"]["n_tokens"] == 10
