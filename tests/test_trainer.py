"""Training with the callback: the logs hold what hooks find, the training is the same to the last bit, other steps cost nothing."""

import pytest
import torch
from tiny_models import N_LAYERS, PAD, one_thread, random_ids, tiny  # noqa: F401

import maxact

pytest.importorskip("accelerate")
from transformers import Trainer, TrainerCallback, TrainingArguments

pytestmark = pytest.mark.usefixtures("one_thread")
HIDDEN = [f"layer_{i}_hidden" for i in range(N_LAYERS)]


class Recorder(TrainerCallback):
    """Stands where a reporter stands: before the callbacks that a user gives."""

    def __init__(self):
        self.logs, self.hooks, self.evaluations = [], [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append((state.global_step, dict(logs)))

    def on_substep_end(self, args, state, control, model=None, **kwargs):
        self.hooks.append((state.global_step + 1, count_hooks(model)))

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.hooks.append((state.global_step + 1, count_hooks(model)))

    def on_prediction_step(self, args, state, control, model=None, **kwargs):
        self.evaluations.append((state.global_step, count_hooks(model)))

    def measured(self, prefix: str = "") -> dict[int, dict]:
        """By step: the logs with our names."""
        ours = ((step, {k: v for k, v in logs.items() if k.startswith(f"{prefix}maxact/")}) for step, logs in self.logs)
        return {step: logs for step, logs in ours if logs}


def count_hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def rows(n: int = 64, width: int = 6) -> list[dict]:
    """Samples of a sequence that can be learned; the last two tokens of some are padding."""
    found = []
    for start in range(n):
        ids = (torch.arange(width) + start) % 37 + 1
        mask = torch.ones(width, dtype=torch.long)
        if start % 3 == 0:
            ids, mask = ids.clone(), mask.clone()
            ids[-2:], mask[-2:] = PAD, 0
        found.append({"input_ids": ids, "attention_mask": mask, "labels": ids})
    return found


def train(tmp_path, steps: int, callbacks: list, model=None, **arguments) -> Trainer:
    arguments = dict(per_device_train_batch_size=4, learning_rate=3e-3, seed=0, logging_steps=5) | arguments
    trainer = Trainer(
        model or tiny("llama"),
        TrainingArguments(
            tmp_path, max_steps=steps, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True, **arguments
        ),
        train_dataset=rows(),
        eval_dataset=rows(4),
        callbacks=callbacks,
    )
    trainer.train()
    return trainer


def test_a_few_hundred_steps_are_logged_where_a_reporter_sees_them(tmp_path):
    recorder = Recorder()
    trainer = train(tmp_path, 200, [recorder, maxact.TrainerCallback(every=40)], logging_steps=50)
    measured = recorder.measured()
    assert list(measured) == [1, 40, 80, 120, 160, 200]
    names = {f"maxact/{site}/{name}" for site in HIDDEN for name in ("absmax", "ratio_max", "n_massive_tokens")}
    for step, logs in measured.items():
        assert logs.keys() == names | {"maxact/M", "maxact/n_nonfinite"}
        assert all(type(value) is float for value in logs.values())
        assert logs["maxact/M"] == max(logs[f"maxact/{site}/absmax"] for site in HIDDEN) > 0
        assert logs | {"step": step, "epoch": step / 16} in trainer.state.log_history
    assert len({logs["maxact/M"] for logs in measured.values()}) == 6  # each of its own step
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 4  # that of step 200, which is measured, too
    assert losses[-1] < losses[0] / 2


def test_the_training_is_the_same_to_the_last_bit(tmp_path):
    models = [tiny("llama"), tiny("llama")]
    train(tmp_path, 12, [], models[0])
    train(tmp_path, 12, [maxact.TrainerCallback(every=3, sites="gemm")], models[1])
    for mine, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert count_hooks(models[1]) == 0


def test_hooks_are_there_in_measured_steps_only_and_never_in_evaluation(tmp_path):
    recorder = Recorder()
    train(tmp_path, 9, [recorder, maxact.TrainerCallback(every=4)], eval_strategy="steps", eval_steps=4)
    assert {step for step, n in recorder.hooks if n} == {1, 4, 8}
    assert recorder.evaluations == [(4, 0), (8, 0), (9, 0)] and len(recorder.hooks) == 9
    assert not recorder.measured("eval_")


def test_evaluation_is_measured_if_asked_and_on_its_own(tmp_path):
    recorder, model = Recorder(), tiny("llama")
    callbacks = [recorder, maxact.TrainerCallback(every=100, evaluation=True)]
    trainer = train(tmp_path, 9, callbacks, model, eval_strategy="steps", eval_steps=4)
    assert {step for step, n in recorder.hooks if n} == {1}
    assert [step for step, n in recorder.evaluations if n] == [4, 8, 9] == list(recorder.measured("eval_"))
    assert len([row for row in trainer.state.log_history if "eval_maxact/M" in row]) == 3
    with maxact.attach(model, HIDDEN) as probe:
        trainer.evaluate()
        expected = {f"eval_{name}": value for name, value in probe.scalars().items()}
    assert recorder.measured("eval_")[9] == expected  # of the model as it was then, and is


def test_evaluation_at_the_end_of_an_epoch_is_measured_too(tmp_path):
    recorder = Recorder()
    train(tmp_path, 32, [recorder, maxact.TrainerCallback(evaluation=True)], eval_strategy="epoch")
    assert list(recorder.measured("eval_")) == [16, 32]


def test_a_measurement_is_of_all_micro_batches_of_a_step_without_their_padding(tmp_path):
    """By hooks of its own: the largest |x| of each layer over what the attention mask keeps."""
    model, seen = tiny("llama"), {}

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen[state.global_step + 1] = dict.fromkeys(HIDDEN, 0.0), []

        def on_step_end(self, args, state, control, **kwargs):
            current[0] = None

    current = [None]

    def see_batch(module, args, kwargs):
        step = max(seen, default=None)
        current[0] = None if step is None else (*seen[step], kwargs["attention_mask"].bool())

    def see(name, module, args, output):
        if current[0] is not None:
            largest, counted, mask = current[0]
            x = (output[0] if isinstance(output, tuple) else output).detach()
            largest[name] = max(largest[name], x[mask].abs().max().item())
            if name == HIDDEN[0]:
                counted.append(int(mask.sum()))

    model.register_forward_pre_hook(see_batch, with_kwargs=True)
    for name, layer in zip(HIDDEN, model.model.layers):
        layer.register_forward_hook(lambda module, args, output, name=name: see(name, module, args, output))
    recorder = Recorder()
    train(tmp_path, 4, [Watch(), recorder, maxact.TrainerCallback(every=2)], model, gradient_accumulation_steps=3)
    assert list(recorder.measured()) == [1, 2, 4]
    for step, logs in recorder.measured().items():
        largest, counted = seen[step]
        assert len(counted) == 3 and sum(counted) < 3 * 4 * 6  # three micro-batches, with padding in them
        assert {site: logs[f"maxact/{site}/absmax"] for site in HIDDEN} == largest


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # 5.17 has no other name
def test_gradient_checkpointing_changes_no_number(tmp_path):
    with_and_without = [Recorder(), Recorder()]
    for recorder, gradient_checkpointing in zip(with_and_without, (False, True)):
        callbacks = [recorder, maxact.TrainerCallback(every=2, sites="gemm")]
        train(tmp_path, 4, callbacks, gradient_checkpointing=gradient_checkpointing)
    assert with_and_without[0].measured() == with_and_without[1].measured()


def test_massive_tokens_and_what_is_not_finite_are_logged(tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[5, 3] = 1e6
        model.model.embed_tokens.weight[7, 3] = float("nan")
    recorder = Recorder()
    train(tmp_path, 1, [recorder, maxact.TrainerCallback(t_ratio=10.0)], model, per_device_train_batch_size=64)
    (logs,) = recorder.measured().values()
    assert logs["maxact/layer_0_hidden/n_massive_tokens"] > 0 and logs["maxact/layer_0_hidden/ratio_max"] > 10
    assert logs["maxact/n_nonfinite"] > 0


def test_a_process_that_logs_nothing_measures_nothing(tmp_path):
    class Elsewhere(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            state.is_world_process_zero = False

    recorder = Recorder()
    train(tmp_path, 3, [Elsewhere(), recorder, maxact.TrainerCallback(every=1)])
    assert not recorder.measured() and not any(n for _, n in recorder.hooks)


def test_a_training_that_failed_leaves_no_hooks_to_the_next_one(tmp_path):
    class Fail(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    model, callback = tiny("llama"), maxact.TrainerCallback(every=1)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 3, [callback, Fail()], model)
    recorder = Recorder()
    train(tmp_path, 2, [callback, recorder], model)
    assert list(recorder.measured()) == [1, 2] and count_hooks(model) == 0


def test_sites_that_see_nothing_stop_the_training_at_its_first_step(tmp_path):
    model = tiny("llama")
    model.model.layers[1].forward = lambda hidden_states, **kwargs: hidden_states
    with pytest.raises(RuntimeError, match="^3 of 14 sites saw no tensor: layer_1_attn_output"):
        train(tmp_path, 3, [maxact.TrainerCallback(every=1000, sites="default")], model)
    assert count_hooks(model) == 0


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10"])
def test_a_number_of_steps_that_is_none_is_refused(every):
    with pytest.raises((TypeError, ValueError), match="^every: .*, expected "):
        maxact.TrainerCallback(every=every)


def test_it_can_be_inherited_from(tmp_path):
    class Mine(maxact.TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            return super().on_train_begin(*args, **kwargs)

    recorder = Recorder()
    train(tmp_path, 1, [recorder, Mine()])
    assert list(recorder.measured()) == [1]


def test_called_by_something_else_it_says_so():
    callback = maxact.TrainerCallback()
    with pytest.raises(
        RuntimeError, match="expected to be called by the Trainer; give it to callbacks= or add_callback"
    ):
        callback.on_train_begin(None, None, None)


# Loops of one's own


def test_scalars_are_the_numbers_of_the_summaries_by_flat_names():
    model = tiny("qwen3")
    with torch.no_grad(), maxact.attach(model, "gemm") as probe:
        assert probe.scalars() == {"maxact/M": 0.0, "maxact/n_nonfinite": 0.0}
        model(random_ids(2, 5))
        scalars = probe.scalars()
    run = probe.run()
    expected = {"maxact/M": run.M, "maxact/n_nonfinite": 0.0}
    for site, s in run.sites.items():
        numbers = {"absmax": s.absmax, "ratio_max": s.ratio_max, "n_massive_tokens": float(s.n_massive_tokens)}
        expected |= {f"maxact/{site}/{name}": value for name, value in numbers.items()}
    assert scalars == expected and all(type(value) is float for value in scalars.values())


def test_scalars_copy_once_for_all_sites(monkeypatch):
    copies = []
    real = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.numel()) or real(tensor))
    with torch.no_grad(), maxact.attach(tiny("llama"), "gemm") as probe:
        probe.model(random_ids(2, 5))
        probe.scalars()
    assert len(copies) == 1 and copies[0] < 4096 * len(probe.states)


def test_scalars_leave_out_what_has_no_value():
    model = tiny("llama")
    with torch.no_grad(), maxact.attach(model, HIDDEN) as probe:
        model(inputs_embeds=torch.zeros(1, 2, 64))
        assert probe.scalars()["maxact/layer_0_hidden/absmax"] == 0.0
        assert "maxact/layer_0_hidden/ratio_max" not in probe.scalars()
