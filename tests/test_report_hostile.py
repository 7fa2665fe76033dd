"""A run that means harm does none: what it says stays text, its numbers stay numbers, and the page stays usable."""

import json

import numpy as np
import pytest
import torch
from report_pages import opened, state

from maxact.report import write_report
from maxact.run import Run, Sites

HARM = [
    "<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "<!--<script>", "javascript:alert(3)",
    "\"'><svg onload=alert(4)>", "{{data}}", "{{script}}", "__proto__", "constructor", "\u2028\u2029\u202e&lt;b&gt;",
    "<style>*{display:none}</style>", "http://example.invalid/x", "a" * 5000,
]  # fmt: skip


def hostile_run() -> Run:
    generator = torch.Generator().manual_seed(0)
    huge = torch.full((20, 8), 3.0e38)
    poisoned = torch.randn(20, 8, generator=generator)
    poisoned[3, 3], poisoned[4, 4] = float("nan"), float("inf")
    kinds = [
        name[:200].replace("/", "|").replace("\u2028", "").replace("\u2029", "").replace("\u202e", "") for name in HARM
    ]
    tensors = [huge, poisoned, torch.zeros(20, 8), torch.full((20, 8), 1e-45), torch.randn(20, 8, generator=generator)]
    sites = {f"layer_{i % 3}_{kind}": state(tensors[i % len(tensors)]) for i, kind in enumerate(kinds)}
    sites |= {kind: state(poisoned.bfloat16()) for kind in kinds}
    sites |= {"layer_999999999_hidden": state(huge), "layer_0_hidden": state(poisoned)}
    deep = [[[HARM]]]
    numbers = {"absmax": 3e38, "n_tokens": 10**30, "n_massive_tokens": 0}
    return Run(Sites(sites), {
        "partial": HARM[1],
        "maxact": deep,
        "model": {"model_id": HARM[0], "model_type": deep, "dtype": HARM[1]},
        "corpus": {"name": HARM[4], "bos": "yes", "special_tokens": True},
        "n_samples": 10**400,
        "n_tokens": "nan",
        "created": HARM[2],
        "environment": {"backend": HARM[3], "device": deep},
        "token_text": {f"{s}:{p}": {"text": HARM[(s + p) % len(HARM)]} for s in range(3) for p in range(10)}
        | {"__proto__": {"text": "x"}, "0:0": deep},
        "experts": {
            HARM[0]: {"absmax": [1.0, "x", None, 1e999], "n_tokens": [1, 2, -5, True], "n_massive_tokens": [0, 0, 0, deep]},
            "__proto__": {"absmax": [1.0], "n_tokens": [3], "n_massive_tokens": [0]},
            "layer_1_experts_act": {"absmax": [1.0], "n_tokens": [3, 4], "n_massive_tokens": [0]},
            "layer_2_experts_act": HARM,
        },
        "groups": {name: {"layer_0_hidden": numbers, "constructor": numbers} for name in HARM} | {"deep": deep},
    })  # fmt: skip


def test_nothing_of_it_becomes_markup_script_or_a_request_and_every_control_still_works(chromium, tmp_path):
    runs = [
        (HARM[0], hostile_run()),
        ("</title><script>alert(5)</script>", hostile_run()),
        ("empty", Run(Sites({}), {})),
    ]
    with opened(chromium, tmp_path, runs) as shown:
        tab = shown.tab
        assert tab.locator("main img, main script, main style, main iframe, main a, svg[onload]").count() == 0
        assert tab.locator("script").count() == 2
        assert HARM[0] in tab.text_content("main") and "2" == str(tab.locator("script").count())
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert sorted(ids) == sorted([*tab.evaluate("EXPLORERS.map(e => e.id)"), "data"])
        for name in tab.evaluate("[...document.querySelectorAll('select')].map(s => s.name)"):
            values = tab.evaluate(f"[...document.querySelector('select[name=\"{name}\"]').options].map(o => o.value)")
            for value in values[:4] + values[-1:]:
                if tab.is_visible(f'select[name="{name}"]'):
                    shown.choose(name, value)
        for i in range(tab.locator("svg[role=group]").count()):
            tab.locator("svg[role=group]").nth(i).focus()
            for key in ("End", "ArrowLeft", "ArrowUp", "Home"):
                tab.keyboard.press(key)
        tab.evaluate("redrawAll()")
        shown.drawn()
        assert tab.locator("script").count() == 2 and tab.title() == "maxact report"
        wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab.evaluate(wide)
        assert shown.said == [] and {url.split("#")[0] for url in shown.asked} == {shown.address}


def test_the_browser_itself_would_refuse_a_script_or_a_request(chromium, tmp_path):
    """The policy of the page, and not only its care: a script put into it does not run, a request does not leave."""
    with opened(chromium, tmp_path, [("empty", Run(Sites({}), {}))]) as shown:
        refused = []
        shown.tab.on("requestfailed", lambda request: refused.append((request.url, request.failure)))
        shown.tab.evaluate(
            "() => { const script = document.createElement('script'); script.textContent = 'window.harmed = 1';"
            "document.body.append(script); document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"harmed=1\">'"
            "+ '<p style=\"position:fixed\">'); }"
        )
        for what in (
            "fetch('http://127.0.0.1:9/')",
            "import('http://127.0.0.1:9/')",
            "new Worker('http://127.0.0.1:9/')",
        ):
            assert (
                shown.tab.evaluate(
                    f"async () => {{ try {{ await {what}; return 'went'; }} catch {{ return 'refused'; }} }}"
                )
                == "refused"
            )
        assert shown.tab.evaluate("window.harmed") is None
        assert len(shown.said) >= 4 and all("Content Security Policy" in text for text in shown.said), shown.said
        went = [url for url in shown.asked if url != shown.address and (url, "csp") not in refused]
        assert went == [] and refused


def test_a_damaged_directory_is_one_sentence_and_leaves_the_old_page(tmp_path):
    run = Run(Sites({"layer_0_hidden": state(torch.ones(4, 4))}), {})
    run.save(tmp_path / "run")
    write_report([tmp_path / "run"], tmp_path / "report.html")
    before = (tmp_path / "report.html").read_bytes()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"token_text": 7}))
    with pytest.raises(ValueError, match="token_text: expected an object"):
        write_report([tmp_path / "run"], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_numbers_beyond_a_float_do_not_stop_a_report():
    from maxact.report import page

    options, arrays = state(torch.ones(4, 4).bfloat16())
    arrays = type(arrays)(arrays | {"sum": np.full_like(arrays["sum"], 2**62), "absmax": np.array(np.nan, np.float32)})
    assert "maxact report" in page([("a", Run(Sites({"layer_0_hidden": (options, arrays)}), {}))])
