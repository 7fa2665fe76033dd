"""The section of a model card that says what a run found, in Markdown. Needs no PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from maxact_kernels.summary import Summary

from .limits import LIMITS
from .markdown import printable, table, text
from .published import CITATION, checkpoint, checkpoints
from .run import ROUTERS, Run, site_kind, site_layer
from .show import sun_test
from .words import PARTIAL, counted, decibel, number, percent, room

PICTURE = (
    "maxact-absmax.svg"  # a file beside the card: GitHub and the hub take pictures from files, not from data: URIs
)


def section(run: Run, picture: str | None = None) -> str:
    """The section, without markers. picture: what the card links to. Raises ValueError for a run without a value."""
    if "imported" in run.provenance:
        raise ValueError("this run was imported, and a card says how to measure it again; measure the model")
    if not math.isfinite(run.M):
        raise ValueError("this run holds no finite value, so there is nothing to say of it")
    parts = ["## Activation magnitudes", _headline(run)]
    if picture:
        parts.append(f"![Largest activation of each layer, on a log axis]({picture})")
    parts += [_verdicts(run), *_quantization(run), *_measured(run)]
    return "\n\n".join(parts)


def _headline(run: Run) -> str:
    peaks = run.peaks()
    first = peaks[0]
    where = f"`{first.site}`" if re.fullmatch(r"\w+", first.site, re.ASCII) else text(first.site)
    tied = f" (and in {counted(len(peaks) - 1, 'more site')}, where it is the same)" if len(peaks) > 1 else ""
    token = run.token_text(first.sample, first.position)
    named = "the token" if token is None else f"the token “{text(token)}”"
    expert = "" if first.expert is None else f"expert {first.expert}, "
    lines = [
        f"**M = {number(run.M)}** is the largest magnitude of any activation that was measured: {number(first.value)} in "
        f"{where}{tied}, {expert}channel {first.feature}, {named} at position {_known(first.position)} of sample "
        f"{_known(first.sample)}."
    ]
    if run.partial:
        lines.append(f"**Partial: {PARTIAL}.**")
    bad = [name for name in run.sites if run.sites[name].n_nan or run.sites[name].n_inf]
    if bad:
        lines.append(
            f"**nan or inf in {counted(len(bad), 'site')}, first {text(bad[0])}; every figure is over the finite elements.**"
        )
    return " ".join(lines)


def _known(coordinate: int | None) -> str:
    return "unknown" if coordinate is None else str(coordinate)


def _verdicts(run: Run) -> str:
    rows = [[f"{title} ({number(LIMITS[name])})", room(run.M, LIMITS[name])] for title, name in _ROOMS]
    rows.append(["Massive activations of Sun et al. (2024)", _sun(run)])
    rows += [["Published figures", sentence] for sentence in _context(run)]
    return table(["", "M = " + number(run.M)], rows).replace("--:", "---")


_ROOMS = (
    ("Largest fp16", "fp16"),
    ("Largest FP8 E5M2, unscaled", "e5m2"),
    ("Largest FP8 E4M3, unscaled", "e4m3"),
    ("Largest with a square in fp16", "fp16-square"),
)


def _sun(run: Run) -> str:
    hidden = [run.sites[name] for name in run.sites if site_kind(name) == "hidden"]
    if not hidden:
        return "the residual stream was not measured"
    rule = sun_test(run).replace("|", "\\|")
    layers = sum(summary.n_massive_tokens > 0 for summary in hidden)
    ratio = max((s.ratio_max for s in hidden if not math.isnan(s.ratio_max)), default=math.nan)
    found = (
        f"{counted(sum(s.n_massive_tokens for s in hidden), 'token')}, summed over {layers} of {counted(len(hidden), 'layer')}"
        if layers
        else f"none in {counted(len(hidden), 'layer')}"
    )
    return f"{found} ({rule}); the largest ratio of the residual stream is {number(ratio)}"


def _context(run: Run) -> Iterator[str]:
    """Where M stands among the published figures; other texts and token counts, so an order and no more."""
    everyone = checkpoints()
    largest = [abs(row.M) for row in everyone]
    above = sum(M > run.M for M in largest)
    yield (
        f"{len(largest)} checkpoints have an M of {number(min(largest))} to {number(max(largest))}, {above} of them a larger "
        f"one than this ({CITATION.split(';')[0]}; other texts, some 17 million tokens each)"
    )
    model = run.provenance.get("model", {})
    same = checkpoint(str(model.get("model_id", "")))
    if same:
        yield f"for {text(same.model)} itself M = {number(abs(same.M))}"
    family = [row for row in everyone if row.model_type == model.get("model_type") and row is not same]
    if family:
        yield "of the same architecture: " + ", ".join(f"{text(row.model)} {number(abs(row.M))}" for row in family)


def _quantization(run: Run) -> Iterator[str]:
    rows = []
    for kind in dict.fromkeys(site_kind(name) for name in run.sites):
        sites = [name for name in run.sites if site_kind(name) == kind and _has_error(run.sites[name])]
        if kind not in ROUTERS and sites:
            rows.append(_row(run, min(sites, key=lambda name: run.sites[name].quantization_error("int8").sqnr_db)))
    if not rows:
        yield "The run holds no counts of magnitudes other than 0, so nothing is known of quantization."
        return
    yield "### INT-8: signal to noise, in dB"
    headings = ["site", "max", "q0.999", "mse", "per token", "zeroed", "M / rms"]
    yield table(headings, rows)
    yield (
        "Of each kind the site with the least at max. One symmetric scale per tensor, at the largest value (*max*), the 0.999 "
        "quantile or the threshold of the least squared error (*mse*), beside a scale *per token*. *Zeroed*: share of the "
        "values other than 0 that become 0 at max. *M / rms*: of the site. A figure in dB follows the energy, of which a few tokens may hold the "
        "most: read it beside the last three columns. It says nothing of the quality of a quantized model."
    )


def _has_error(summary: Summary) -> bool:
    return summary.options.counts and summary.absmax > 0


def _row(run: Run, name: str) -> list[str]:
    summary = run.sites[name]
    errors = [summary.quantization_error("int8", threshold) for threshold in ("max", "q0.999", "mse")]
    per_token = decibel(summary.int8_per_token.sqnr_db) if summary.options.int8_per_token else "–"
    beside = [per_token, percent(errors[0].zeroed), number(summary.absmax / summary.rms)]
    return [text(name), *(decibel(error.sqnr_db) for error in errors), *beside]


def _measured(run: Run) -> Iterator[str]:
    p = run.provenance
    model, corpus, environment = (p.get(name, {}) for name in ("model", "corpus", "environment"))
    skip = p.get("skip_first")
    around = [what for name, what in _AROUND.items() if corpus.get(name)]
    facts = [
        ("model", [model.get("model_id"), model.get("revision"), _short("config", model.get("config_digest"))]),
        ("computed in", [model.get("dtype"), _named("attention", model.get("attn")), environment.get("device")]),
        ("text", [
            _named("corpus", corpus.get("name")), _short("digest", corpus.get("digest")),
            _counted(p.get("n_samples"), "sample"), _counted(p.get("n_tokens"), "token"),
            " and ".join(around) or "no special tokens" if corpus else None,
            _counted(corpus.get("n_truncated"), "cut sample") if corpus.get("n_truncated") else None,
            f"without the first {counted(skip, 'token')} of each" if isinstance(skip, int) and skip else None,
        ]),
        ("measured at", [_counted(len(run.sites), "site"), _layers(run)]),
        ("by", [
            _named("maxact", p.get("maxact")), _named("backend", environment.get("backend")),
            _named("PyTorch", environment.get("torch")), _named("transformers", environment.get("transformers")),
        ]),
    ]  # fmt: skip
    yield "### How it was measured"
    yield "\n".join(
        f"- {title}: " + ", ".join(text(value) for value in values if value) for title, values in facts if any(values)
    )
    yield "M is the largest value of this text; other text may hold a larger one."
    if corpus:
        yield f"To repeat it:\n\n```\n{command(run)}\n```"
    else:
        yield "The batches came from a program of its own (`maxact.attach`), which no command repeats."


_AROUND = {
    "bos": "a BOS token",
    "special_tokens": "the tokenizer's special tokens",
    "chat_template": "the chat template",
}


def _named(what: str, value) -> str | None:
    return f"{what} {printable(value)}" if value else None


def _short(what: str, digest) -> str | None:
    return f"{what} {printable(digest)[:12]}" if digest else None


def _counted(value, what: str) -> str | None:
    return counted(value, what) if isinstance(value, int) else None


def _layers(run: Run) -> str | None:
    layers = {site_layer(name) for name in run.sites} - {None}
    return counted(len(layers), "layer") if layers else None


def command(run: Run) -> str:
    """The command that measures the same again; what a shell or Markdown could take for more becomes a placeholder."""
    p = run.provenance
    model, corpus = p.get("model", {}), p.get("corpus", {})
    named = (options for name, options, _ in run.sites.held() if site_kind(name) != "experts_act")
    n_samples = max((options.n_samples for options in named), default=0)
    sites, shard = p.get("site_set"), p.get("shard")
    options = {
        "--corpus": corpus.get("name") if corpus.get("name") != "builtin" else None,
        "--limit": n_samples,
        "--sites": ",".join(map(str, sites)) if isinstance(sites, list) else sites if sites != "default" else None,
        "--revision": model.get("revision"),
        "--dtype": model.get("dtype"),
        "--attn": model.get("attn"),
        "--max-length": corpus.get("max_length"),
        "--tokens-per-batch": p.get("tokens_per_batch"),
        "--skip-first": p.get("skip_first"),
        "--shard": "/".join(map(str, shard)) if isinstance(shard, list) and shard != [1, 1] else None,
    }
    words = ["maxact measure", _word(model.get("model_id"), "MODEL")]
    words += [f"{name} {_word(value, name[2:].upper())}" for name, value in options.items() if value]
    words += [f"--{name.replace('_', '-')}" for name in _AROUND if corpus.get(name)]
    return " ".join(words)


def _word(value, placeholder: str) -> str:
    word = "" if value is None else str(value)
    if re.fullmatch(r"[\w./:@+][\w./:@+-]{0,120}", word, re.ASCII):
        return word
    return f"'{word}'" if re.fullmatch(r"[\w,*?]{1,2000}", word, re.ASCII) else placeholder
