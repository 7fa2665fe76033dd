"""Runs that report pages are tested on, and a page of them open in a browser."""

from __future__ import annotations

import contextlib

import torch

from maxact.report import page
from maxact.run import Run, Sites
from maxact_kernels import fused_probe
from maxact_kernels.storage import Arrays

KINDS = "attn_input o_input attn_output mlp_input mlp_gate mlp_act mlp_output hidden moe_gate experts_act".split()


def state(x: torch.Tensor, **options):
    """Options and arrays of a state that has seen x: rows are tokens, ten to a sample."""
    rows = torch.arange(len(x))
    made = fused_probe(
        x, topk=7, int8_per_token=True, token_ids=(rows // 10 << 32) + rows % 10, n_samples=len(x) // 10 + 1, **options
    )
    return made.options, Arrays(made.host_arrays())


def jumping_run(seed: int = 0, n_layers: int = 6, scale: float = 1.0, **provenance) -> Run:
    """One massive activation in channel 5 of token 0, born in layer 2, carried on, gone in the last layer."""
    generator = torch.Generator().manual_seed(seed)
    sites = {"embedding_output": state(torch.randn(40, 16, generator=generator).bfloat16())}
    for layer in range(n_layers):
        for kind in ("attn_output", "mlp_act", "hidden"):
            x = torch.randn(40, 16, generator=generator) * scale
            if kind == "hidden" and 2 <= layer < n_layers - 1:
                x[0, 5] = -4000.0
            sites[f"layer_{layer}_{kind}"] = state(x.bfloat16())
    given = {
        "partial": False,
        "model": {"model_id": f"maker/tiny-{seed}-1b", "model_type": "llama", "dtype": "bfloat16"},
        "corpus": {"name": "builtin", "bos": True},
        "n_samples": 4,
        "n_tokens": 40,
        "samples": [{"index": i, "domain": ("prose", "code")[i % 2], "n_tokens": 10} for i in range(4)],
        "token_text": {"0:0": {"id": 1, "text": "<s>"}},
    }
    return Run(Sites(sites), given | provenance)


def deep_run(n_layers: int, seed: int) -> Run:
    """Ten kinds of sites in each of many layers: one state for each kind, in many places."""
    generator = torch.Generator().manual_seed(seed)
    kinds = {kind: state((torch.randn(600, 64, generator=generator) * 3).bfloat16()) for kind in KINDS}
    return Run(Sites({f"layer_{i}_{kind}": held for i in range(n_layers) for kind, held in kinds.items()}), {})


class Opened:
    """A page in a browser, with all that it said and asked for."""

    def __init__(self, tab, path):
        self.tab, self.said, self.asked = tab, [], []
        tab.on("console", lambda message: self.said.append(message.text))
        tab.on("pageerror", lambda error: self.said.append(str(error)))
        tab.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda request: self.asked.append(request.url))
        self.address = path.as_uri()

    def go(self, link: str = "") -> None:
        self.tab.goto("about:blank")
        self.tab.goto(self.address + link)
        self.drawn()

    def drawn(self) -> None:
        self.tab.wait_for_selector("html[data-drawn]", state="attached", timeout=20000)

    def choose(self, control: str, value) -> None:
        self.tab.select_option(f'select[name="{control}"]', str(value))

    def slide(self, control: str, stop: int) -> None:
        self.tab.eval_on_selector(
            f'input[name="{control}"]',
            "(input, stop) => { input.value = stop; input.dispatchEvent(new Event('input')); }",
            stop,
        )

    def finding(self, explorer: str) -> str:
        return self.tab.text_content(f"#{explorer} .finding")

    def link(self) -> str:
        self.tab.wait_for_timeout(250)  # the link is written when the controls rest
        return self.tab.evaluate("location.hash")


@contextlib.contextmanager
def opened(chromium, tmp_path, runs: list[tuple[str, Run]], link: str = "", **context):
    path = tmp_path / "report.html"
    path.write_text(page(runs), encoding="utf-8")
    tab = chromium.new_context(**{"viewport": {"width": 1100, "height": 800}} | context).new_page()
    try:
        shown = Opened(tab, path)
        tab.goto(shown.address + link)
        shown.drawn()
        yield shown
    finally:
        tab.context.close()
