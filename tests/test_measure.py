"""The whole job on a tiny model: any batching measures the same tokens, and what goes wrong half-way leaves no trace."""

import io

import pytest
import torch
from tiny_models import FAMILIES, N_LAYERS, VOCAB, one_thread, tiny  # noqa: F401

from maxact import measure
from maxact.corpus import Corpus, Sample
from maxact.encoding import Encoded
from maxact.planning import Work, plan

pytestmark = pytest.mark.usefixtures("one_thread")


class Letters:
    """A tokenizer as `measure` uses one: a letter is a token, and its number is its id."""

    bos_token_id, chat_template = 1, None

    def __len__(self):
        return VOCAB

    def __call__(self, texts, **options):
        return {"input_ids": [[3 + ord(c) % 30 for c in text] for text in texts]}

    def get_vocab(self):
        return {self.decode([id]): id for id in range(VOCAB)}

    def decode(self, ids):
        return f"<{ids[0]}>"


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


TEXTS = ["abcdefghij", "klm", "nopqrst", "u", "vwxyzab", "cdefgh"]


def test_a_run_names_what_it_measured(model):
    run = measure(model, Letters(), TEXTS, tokens_per_batch=16)
    p = run.provenance
    assert (p["n_samples"], p["n_tokens"], p["partial"]) == (6, sum(map(len, TEXTS)), False)
    assert list(run.sites)[0] == "embedding_output" and len(run.sites) == 2 + 4 * N_LAYERS
    assert all(row["fired"] == row["expected"] for row in p["coverage"])
    assert p["environment"]["backend"] in ("cpu", "reference")
    assert [s["n_tokens"] for s in p["samples"]] == [len(t) for t in TEXTS]
    for summary in run.sites.values():
        assert summary.n_tokens == p["n_tokens"]
        assert len(summary.sample_absmax) == 6 and (summary.sample_absmax > 0).all()
    for place in run.peaks():
        letter = TEXTS[place.sample][place.position]
        assert run.token_text(place.sample, place.position) == f"<{3 + ord(letter) % 30}>"


@pytest.mark.parametrize("tokens_per_batch", [1, 7, 16, 1000])
def test_batching_changes_no_bit_of_what_does_not_depend_on_neighbours(model, tokens_per_batch):
    # The embedding is a look-up: its statistics must be equal to the last bit, coordinates included.
    whole = measure(model, Letters(), TEXTS, tokens_per_batch=30, sites=["embedding_output"])
    run = measure(model, Letters(), TEXTS, tokens_per_batch=tokens_per_batch, sites=["embedding_output"])
    ours, theirs = run.sites["embedding_output"]._arrays, whole.sites["embedding_output"]._arrays
    for field in ours:
        assert ours[field].tobytes() == theirs[field].tobytes(), field


def test_a_bos_token_is_one_more_token_of_each_sample(model):
    run = measure(model, Letters(), TEXTS, bos=True, sites=["embedding_output"])
    assert run.provenance["n_tokens"] == sum(map(len, TEXTS)) + len(TEXTS)
    assert run.provenance["corpus"]["bos"] is True


def test_samples_of_ids_are_measured_as_they_are(model):
    corpus = Corpus("ids", [Sample(None, [4, 5, 6], "a"), Sample(None, [4, VOCAB], "b"), Sample(None, [7], "c")])
    notes = []
    run = measure(model, Letters(), corpus, sites=["embedding_output"], on_note=notes.append)
    assert run.provenance["n_tokens"] == 4 and run.provenance["corpus"]["n_unreadable"] == 1
    assert f"id {VOCAB}, expected 0 to {VOCAB - 1}" in notes[0]
    assert [s["index"] for s in run.provenance["samples"]] == [0, 2]


def test_batches_hold_every_sample_once_and_no_more_tokens_than_allowed():
    torch.manual_seed(0)
    for budget in (1, 10, 64, 10_000):
        encoded = [Encoded([1] * int(n), i, "", False) for i, n in enumerate(torch.randint(1, 50, (40,)))]
        batches = plan(encoded, budget)
        assert sorted(i for batch in batches for i in batch) == list(range(40))
        for batch in batches:
            longest = max(len(encoded[i].ids) for i in batch)
            assert len(batch) == 1 or len(batch) * longest <= budget


def test_where_a_batch_is_cut_depends_on_the_budget_and_not_on_what_was_done_before():
    encoded = [Encoded([1] * (20 - i), i, "", False) for i in range(20)]
    batches = plan(encoded, 100)

    def pieces(work):
        found = []
        while (samples := work.next()) is not None:
            assert len(samples) == 1 or work.n_padded(samples) <= work.budget
            work.finish(samples)
            found.append(samples)
        return found

    whole = pieces(Work(encoded, batches, 40))
    assert sorted(i for samples in whole for i in samples) == list(range(20))
    for n in range(len(whole)):
        assert pieces(Work(encoded, batches, 40, {i for samples in whole[:n] for i in samples})) == whole[n:]
    late = Work(encoded, batches, 100)
    late.finish(first := late.next())
    late.halve(first[:1] * 4)
    assert late.budget == 40 and pieces(late) == pieces(Work(encoded, batches, 40, set(first)))


class Faulty:
    """Lets a model fail at chosen forward passes of its second layer, when half the sites have seen the batch."""

    def __init__(self, model, when, error):
        self.calls = 0

        def hook(module, args, output):
            self.calls += 1
            if when(self.calls, output):
                raise error

        self.handle = model.model.layers[1].register_forward_hook(hook)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.remove()


def large(calls, output):
    return output.shape[0] * output.shape[1] > 12


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_batch_too_large_for_memory_is_halved_and_counted_once(model, error):
    whole = measure(model, Letters(), TEXTS, tokens_per_batch=10)
    notes = []
    with Faulty(model, large, error):
        run = measure(model, Letters(), TEXTS, tokens_per_batch=40, on_note=notes.append)
    assert run.provenance["n_tokens"] == whole.provenance["n_tokens"]
    assert run.provenance["tokens_per_batch"] < 40
    assert "did not fit in memory" in notes[0]
    assert [s.n_tokens for s in run.sites.values()] == [s.n_tokens for s in whole.sites.values()]
    ours, theirs = run.sites["embedding_output"]._arrays, whole.sites["embedding_output"]._arrays
    assert all(ours[field].tobytes() == theirs[field].tobytes() for field in ours)


def test_one_sample_too_large_for_memory_is_an_error_that_says_what_to_do(model):
    with Faulty(model, lambda calls, output: True, torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(torch.OutOfMemoryError, match="--max-length"):
            measure(model, Letters(), ["abc"])


def test_any_other_error_of_the_model_is_not_swallowed(model):
    with Faulty(model, lambda calls, output: True, RuntimeError("shape mismatch")):
        with pytest.raises(RuntimeError, match="shape mismatch"):
            measure(model, Letters(), TEXTS)


@pytest.mark.parametrize("where", ["between batches", "inside a batch"])
def test_an_interrupted_run_holds_whole_batches_only_and_says_so(model, where):
    batches = plan([Encoded([1] * len(t), i, "", False) for i, t in enumerate(TEXTS)], 10)
    two = [TEXTS[i] for batch in batches[:2] for i in batch]
    expected = measure(model, Letters(), two, tokens_per_batch=10)
    seen = []

    def stop(progress):
        seen.append(progress)
        if where == "between batches" and len(seen) == 2:
            raise KeyboardInterrupt

    with Faulty(model, lambda calls, output: where == "inside a batch" and calls == 3, KeyboardInterrupt()):
        run = measure(model, Letters(), TEXTS, tokens_per_batch=10, on_progress=stop)
    assert run.partial and run.provenance["n_tokens"] == sum(map(len, two)) == seen[-1].n_tokens
    for name in run.sites:
        assert run.sites[name].n_tokens == expected.sites[name].n_tokens
        assert run.sites[name].counts.tobytes() == expected.sites[name].counts.tobytes()


def test_interrupted_before_the_first_batch_there_is_no_run(model):
    with Faulty(model, lambda calls, output: True, KeyboardInterrupt()):
        with pytest.raises(KeyboardInterrupt):
            measure(model, Letters(), TEXTS)


def test_progress_tells_tokens_and_the_running_maximum(model):
    seen = []
    run = measure(model, Letters(), TEXTS, tokens_per_batch=10, on_progress=seen.append)
    assert [p.n_tokens for p in seen] == sorted(p.n_tokens for p in seen)
    assert seen[-1].n_tokens == seen[-1].n_tokens_total == run.provenance["n_tokens"]
    assert seen[-1].M == run.M


def test_every_family_is_measured_whole():
    for family in FAMILIES:
        run = measure(tiny(family), Letters(), TEXTS[:2], sites="gemm")
        assert run.M > 0 and not run.partial


def test_a_model_that_produces_nan_is_measured_to_its_end_and_the_first_site_is_named():
    from rich.console import Console

    from maxact.show import print_run

    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = torch.nan
    run = measure(model, Letters(), TEXTS)
    assert not run.partial and run.provenance["n_samples"] == len(TEXTS)
    assert run.sites["layer_1_mlp_output"].n_nan == run.provenance["n_tokens"]
    console = Console(width=120, record=True, file=io.StringIO())
    print_run(run, console, "hidden")
    assert "NOT FINITE: " in (text := console.export_text()) and "first layer_1_mlp_output (" in text


def test_bad_options_are_refused_before_anything_runs(model):
    with pytest.raises(ValueError, match="tokens_per_batch: 0, expected at least 1"):
        measure(model, Letters(), TEXTS, tokens_per_batch=0)
    with pytest.raises(ValueError, match="sites"):
        measure(model, Letters(), TEXTS, sites=["layer_*_nothing"])
    with pytest.raises(ValueError, match="topk"):
        measure(model, Letters(), TEXTS, topk=2000)
