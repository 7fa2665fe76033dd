"""What one model type should show: which sites in which layers, and how a layer makes its output of them."""

from __future__ import annotations

from dataclasses import dataclass

# The kinds of a layer's sites in the order of the model, a letter each; `hidden` ends every layer.
KINDS = {
    "q": "attn_input", "o": "o_input", "a": "attn_output", "Q": "attn_input_2", "O": "o_input_2", "A": "attn_output_2",
    "c": "cross_attention_output", "i": "mlp_input", "r": "moe_gate", "g": "mlp_gate", "d": "mlp_act",
    "G": "shared_expert_gate", "D": "shared_expert_act", "S": "shared_expert_output", "m": "mlp_output",
    "1": "mlp_gate_2", "2": "mlp_act_2", "M": "mlp_output_2", "3": "mlp_output_3",
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """`kinds` and `added` say it for all layers, or per layer with commas: "2*qoam,qoarm" is three layers."""

    kinds: str = "qoaigdm"
    added: str | None = "+a +m"  # how a layer makes its output: +letter adds a site, ~norm through a norm, |norm alone
    why: str = ""  # where nothing is said of `added`: what else goes into the output
    down: str | None = "mlp.down_proj"  # the down projection
    layers: str = "model.layers"
    ends: str = "ef"  # e: embedding_output, f: final_layernorm
    norm: str | None = "model.norm"
    merged: bool = False  # something lies between the last layer and the final norm
    gated: str | None = "silu"  # mlp_act is this of mlp_gate times up; None: of more than these
    router: bool = True  # the logits are one matrix times the router's input

    def of_layers(self, n_layers: int) -> list[str]:
        return _spread(self.kinds, n_layers)

    def steps(self, n_layers: int) -> list[list[str]]:
        return [added.split() for added in _spread(self.added, n_layers)]

    def sites(self, n_layers: int) -> list[str]:
        layers = [
            f"layer_{i}_{kind}"
            for i, letters in enumerate(self.of_layers(n_layers))
            for kind in [*(KINDS[letter] for letter in letters), "hidden"]
        ]
        embedding, final = ["embedding_output"] * ("e" in self.ends), ["final_layernorm"] * ("f" in self.ends)
        return [*embedding, *layers, *final]


def _spread(words: str, n_layers: int) -> list[str]:
    spread = []
    for word in words.split(","):
        times, _, rest = word.rpartition("*")
        spread += [rest] * int(times or 1)
    return spread * n_layers if len(spread) == 1 else spread
