"""The hooks of a probe: which call of which module is a forward pass, and which tensor is a site's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from . import compiled
from .experts import KIND as EXPERTS
from .experts import Watch
from .generation import prepare_inputs
from .replaced import Replaced
from .sites import Site, SiteMap
from .tokens import Given


class Wiring:
    """Hooks from the modules of `probe.model` to the probe, until `remove`. A compiler traces them: under one they read
    only what never changes, and leave the rest to `compiled`."""

    def __init__(self, probe, device: torch.device, say_mask: Callable[[torch.Tensor], None]):
        self._probe, self._sites = probe, probe.site_map.sites
        self._door = compiled.open_door(probe, device)
        self._handles: list = []
        self.watches: dict[int, Watch] = {}  # by the place of their sites
        try:
            self._add(probe.model, probe.site_map, say_mask)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _add(self, model: nn.Module, site_map: SiteMap, say_mask: Callable[[torch.Tensor], None]) -> None:
        self._handles.append(compiled.HookGuards())
        # The decoder may be called on its own, without the LM head, and so may what lies between it and the model.
        # Where an encoder lies beside the decoder, the model is called with the encoder's tokens.
        names = site_map.decoder.split(".") if site_map.decoder else []
        for place in range(len(names) if site_map.has_encoder else 0, len(names) + 1):
            module = model.get_submodule(".".join(names[:place]))
            parameters = list(inspect.signature(unwrapped(module).forward).parameters)
            enter, leave = partial(self._enter, place, parameters), partial(self._leave, place)
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(leave, always_call=True))
        for place, site in enumerate(site_map.sites):
            module = model.get_submodule(site.path)
            if site.kind == EXPERTS:
                of, see = partial(self._probe.tokens_of, site), partial(self._probe.see_experts, site)
                hook = Watch(module, of, see, partial(compiled.see_experts, self._door, place))
                self.watches[place] = hook
            elif site.end == "input":
                hook = module.register_forward_pre_hook(partial(self._see_input, place), with_kwargs=True)
            else:
                hook = module.register_forward_hook(partial(self._see_output, place))
            self._handles.append(hook)
        if hasattr(model, "prepare_inputs_for_generation"):
            around = partial(prepare_inputs, say_mask)
            self._handles.append(Replaced(model, "prepare_inputs_for_generation", around))

    def _enter(self, place: int, parameters: list[str], module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = Given.of(dict(zip(parameters, args)) | kwargs)
        if torch.compiler.is_compiling():
            compiled.enter(self._door, place, given)
            return
        if getattr(module, "_is_replica", False):
            raise RuntimeError(
                f"torch.nn.DataParallel runs copies of {type(module).__name__} side by side, which no probe can tell apart; "
                "use a process for each GPU (torchrun -m maxact measure) or one GPU"
            )
        self._probe.enter_at(place, given)

    def _leave(self, place: int, module: nn.Module, args: tuple, output) -> None:
        if torch.compiler.is_compiling():
            compiled.leave(self._door, place)
        else:
            self._probe.leave_at(place)

    def _see_input(self, place: int, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._see(place, (*args, *kwargs.values()))

    def _see_output(self, place: int, module: nn.Module, args: tuple, output) -> None:
        self._see(place, output)

    def _see(self, place: int, value) -> None:
        """Take the tensor, or the one of a tuple that the site names."""
        if not torch.compiler.is_compiling() and not self._probe.is_entered():
            return
        site = self._sites[place]
        x = _picked(site, value)
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{site.name}: {site.path} has a {type(x).__name__} as {site.end}, expected a tensor")
        if site.first_half:
            x = x[..., : x.shape[-1] // 2]
        if site.kind == "hidden" and x.ndim == 4:  # the residual stream is several streams
            x = (x.movedim(0, 2) if site.streams_first else x).flatten(2)
        if torch.compiler.is_compiling():
            compiled.see(self._door, place, x)
        else:
            self._probe.see_at(place, x)


def _picked(site: Site, value):
    """The tensor of a site in what its module gave or was given."""
    if not isinstance(value, (tuple, list)) or not value:
        return value
    if site.n_experts is None:
        return value[site.element]
    tensors = (x for x in value if isinstance(x, torch.Tensor) and x.is_floating_point())
    logits = [x for x in tensors if x.shape[-1] == site.n_experts]
    if not logits:
        raise TypeError(
            f"{site.name}: {site.path} gives no logits (no floating-point tensor of {site.n_experts} features); choose "
            "sites without it"
        )
    return logits[-1]  # scores made of them come before


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that torch.compile or DistributedDataParallel gave back wrapped, or this one if it is not."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        else:
            return model


def is_wired(model: nn.Module) -> bool:
    """Whether hooks of a probe are in some module of a model."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return any(isinstance(hook, partial) and isinstance(getattr(hook.func, "__self__", None), Wiring) for hook in hooks)
