"""A callback for transformers' Trainer that measures every so many steps and puts what it finds into the Trainer's logs."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from transformers import TrainerCallback as _TrainerCallback
from transformers.trainer_callback import CallbackHandler

from .hooks import Probe, attach


class TrainerCallback(_TrainerCallback):
    """Logs M, and by site absmax, the largest ratio and the massive tokens, of the first step and every `every`th.

    `Trainer(..., callbacks=[maxact.TrainerCallback(every=100)])`. The names are those of `Probe.scalars`, so whatever
    the Trainer reports to (TensorBoard, W&B, trackio) and its log_history get `maxact/layer_3_hidden/absmax`.

    A measurement is of one optimizer step: all its micro-batches (gradient accumulation), as the training model computes
    them, dropout included; each starts from nothing. Hooks are there while something is measured only. With several
    processes the first measures its own share of the batch, the others nothing.

    every: in optimizer steps. evaluation: also measure each evaluation that the Trainer does while it trains, as
    `eval_maxact/...`. sites: those of `attach`; by default the residual stream. t_abs, t_ratio: thresholds of the
    massive-activation test. Raises ValueError or TypeError if they are not what they must be; training raises
    RuntimeError at its first step if a site sees no tensor.
    """

    def __init__(
        self,
        every: int = 100,
        *,
        evaluation: bool = False,
        sites: str | Iterable[str] = ("layer_*_hidden",),
        t_abs: float = 100.0,
        t_ratio: float = 1000.0,
    ):
        if isinstance(every, bool) or not isinstance(every, int):
            raise TypeError(f"every: {every!r}, expected a number of steps")
        if every < 1:
            raise ValueError(f"every: {every}, expected at least 1")
        self.every, self.evaluation = every, evaluation
        self._sites = sites if isinstance(sites, str) else list(sites)
        # What no log holds is left out: a state is then some kilobytes.
        self._options = dict(t_abs=t_abs, t_ratio=t_ratio, topk=1, counts=False, medians=False)
        self._probe: Probe | None = None
        self._handler: CallbackHandler | None = None
        self._is_first = True

    def on_train_begin(self, args, state, control, **kwargs):
        self._detach()  # of a training that ended by an exception
        self._is_first = True
        # A callback may only write to the logs that others have been given already. The handler that calls it knows them.
        frame = sys._getframe(1)
        while frame is not None and not isinstance(frame.f_locals.get("self"), CallbackHandler):
            frame = frame.f_back
        if frame is None:
            raise RuntimeError(
                "TrainerCallback: expected to be called by the Trainer; give it to callbacks= or add_callback"
            )
        self._handler = frame.f_locals["self"]

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self._detach()
        if self._is_first or (state.global_step + 1) % self.every == 0:
            self._attach(model, state)
        self._is_first = False

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self._log("", args, state, control)
        self._attach_for_evaluation(model, state, control)

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self._attach_for_evaluation(model, state, control)

    def on_evaluate(self, args, state, control, **kwargs):
        self._log("eval_", args, state, control)

    def on_train_end(self, args, state, control, **kwargs):
        self._detach()
        self._handler = None

    def _attach_for_evaluation(self, model, state, control) -> None:
        if self.evaluation and control.should_evaluate:  # as the Trainer's own callback has decided before
            self._attach(model, state)

    def _attach(self, model, state) -> None:
        if state.is_world_process_zero:
            self._probe = attach(model, self._sites, **self._options)

    def _log(self, prefix: str, args, state, control) -> None:
        """As `Trainer.log` does, of what the probe has seen, if there is one."""
        if self._probe is None:
            return
        probe = self._probe
        self._detach()
        probe.check()
        logs = {prefix + name: value for name, value in probe.scalars().items()} | {"epoch": state.epoch}
        state.log_history.append(logs | {"step": state.global_step})
        should_log = control.should_log  # on_log takes it back, and with it the loss that this step was to log
        self._handler.on_log(args, state, control, logs=logs)
        control.should_log = should_log

    def _detach(self) -> None:
        if self._probe is not None:
            self._probe.detach()
        self._probe = None
