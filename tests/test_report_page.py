"""A report page in a real browser: it draws without an error or a request, and each control does what it says."""

import itertools

import pytest
from report_pages import jumping_run, opened

RUNS = [("one", jumping_run(0)), ("two", jumping_run(1, n_layers=9, scale=2.0))]


@pytest.fixture(scope="module")
def shown(chromium, tmp_path_factory):
    with opened(chromium, tmp_path_factory.mktemp("page"), RUNS) as shown:
        yield shown


@pytest.fixture(autouse=True)
def afresh(shown):
    shown.go()
    yield
    assert shown.said == []


def test_it_loads_without_an_error_and_asks_for_nothing_but_itself(shown):
    assert {url.split("#")[0] for url in shown.asked} == {shown.address}
    assert shown.tab.evaluate("document.querySelectorAll('section').length") == shown.tab.evaluate("EXPLORERS.length")
    for text in shown.tab.eval_on_selector_all(".finding", "all => all.map(p => p.textContent)"):
        assert text.endswith(".") and "undefined" not in text and "NaN" not in text, text


def test_the_landscape_has_a_bar_for_each_run_and_its_legend_takes_families_out(shown):
    bars = "#landscape rect"
    tab = shown.tab
    assert {"one", "two"} <= set(tab.eval_on_selector_all("#landscape svg text", "all => all.map(t => t.textContent)"))
    n = tab.locator(bars).count()
    tab.click('#landscape .chip:has(span:text-is("tiny-1"))')
    assert tab.locator(bars).count() == n - 1
    assert shown.link() == "#landscape.off=1"
    tab.click('#landscape .chip:has(span:text-is("tiny-1"))')
    assert tab.locator(bars).count() == n and shown.link() in ("", "#")


def test_trajectories_name_the_layer_that_jumps(shown):
    assert "one: jump-and-plateau, layer 2 multiplies absmax by" in shown.finding("trajectories")
    assert "up to 4,000 at layer 2" in shown.finding("trajectories")
    shown.choose("trajectories.kind", "1")
    assert "mlp_act" in shown.tab.get_attribute("#trajectories svg", "aria-label")
    assert "gradual" in shown.finding("trajectories")
    shown.choose("trajectories.y", "crest")
    assert "The largest crest of mlp_act" in shown.finding("trajectories")
    shown.choose("trajectories.x", "layer")
    assert shown.link() == "#trajectories.kind=1&trajectories.y=crest&trajectories.x=layer"


@pytest.mark.parametrize("width", [390, 1100])
def test_no_label_of_a_threshold_covers_another(width, chromium, tmp_path):
    with opened(chromium, tmp_path, RUNS, viewport={"width": width, "height": 800}) as page:
        for fmt in ("int8", "int4", "fp8_e4m3"):
            page.choose("quantization.format", fmt)
            boxes = page.tab.evaluate(
                "[...document.querySelectorAll('#quantization svg text')]"
                ".filter(t => ['absmax', '0.999 quantile', 'least squared error'].includes(t.textContent))"
                ".map(t => t.getBoundingClientRect()).map(r => [r.left, r.right, r.top, r.bottom])"
            )
            assert len(boxes) == 3
            for (left, right, top, bottom), other in itertools.combinations(boxes, 2):
                beside = right <= other[0] or other[1] <= left
                assert beside or bottom <= other[2] + 2 or other[3] <= top + 2, (fmt, boxes)


@pytest.mark.parametrize("absmax, shape, layer", [
    ([10, 10, 10, 5000, 5000, 5000, 900], "jump-and-plateau", 3),
    ([10, 20, 40, 80, 160, 320, 640], "gradual", 1),
    ([10, 12, 9, 11, 30, 35, 30], "gradual", 4),
    ([10, 10, 10, 10, 10, 10, 9000], "a jump without a plateau", 6),
    ([10, 10, 5000, 20, 20, 20, 20], "a jump without a plateau", 2),
    ([100, 90, 80, 70, 60, 50, 40], "gradual", 1),
])  # fmt: skip
def test_a_jump_is_told_from_a_gradual_rise(shown, absmax, shape, layer):
    sites = [{"layer": i, "absmax": value} for i, value in enumerate(absmax)]
    found = shown.tab.evaluate(
        "(sites) => { const jump = jumpOf(sites); return [jump.shape, jump.site.layer]; }", sites
    )
    assert found == [shape, layer]


def test_a_run_that_is_switched_off_is_drawn_nowhere(shown):
    assert "two:" in shown.finding("trajectories")
    shown.tab.uncheck('.card:nth-child(2) input[name="runs"]')
    shown.drawn()
    assert "two" not in shown.finding("trajectories") + shown.finding("landscape")
    assert shown.link() == "#runs=1"


def test_the_state_of_every_control_comes_back_with_the_link(shown):
    link = "#trajectories.kind=1&trajectories.x=layer&landscape.order=family&map.run=1&map.z=crest&runs=0"
    shown.go(link)
    values = shown.tab.eval_on_selector_all("select", "all => all.map(s => [s.name, s.value])")
    assert set(link[1:].split("&")) - {"runs=0"} <= {f"{name}={value}" for name, value in values}
    assert not shown.tab.is_checked('.card:nth-child(1) input[name="runs"]')
    shown.tab.evaluate("location.hash = '#map.run=0'")
    shown.drawn()
    assert shown.tab.input_value('select[name="map.run"]') == "0"
    assert shown.tab.is_checked('.card:nth-child(1) input[name="runs"]')


@pytest.mark.parametrize("link", ["#trajectories.kind=99&map.run=-1&map.z=</script>", "#%00=%FF&&&=&runs=a,,9e9"])
def test_a_link_that_says_nonsense_is_as_if_it_said_nothing(shown, link):
    shown.go(link)
    assert "jump-and-plateau" in shown.finding("trajectories")


def test_pointing_at_a_mark_shows_its_exact_values(shown):
    svg = shown.tab.locator("#trajectories svg").first
    svg.scroll_into_view_if_needed()
    shown.tab.wait_for_timeout(100)  # the page tells of its scrolling a frame later, and scrolling hides the values
    box = svg.bounding_box()
    x, y = shown.tab.eval_on_selector(
        "#trajectories circle[r='5']", "c => [Number(c.getAttribute('cx')), Number(c.getAttribute('cy'))]"
    )
    shown.tab.mouse.move(box["x"] + x, box["y"] + y)
    text = shown.tab.text_content(".tip")
    assert shown.tab.is_visible(".tip") and "layer_2_hidden" in text and "4,000" in text
    shown.tab.mouse.move(2, 2)
    assert not shown.tab.is_visible(".tip")


def test_every_plot_is_one_tab_stop_and_arrow_keys_read_it(shown):
    tab = shown.tab
    charts = tab.locator("svg[role=group]")
    assert charts.count() > 2
    for i in range(charts.count()):
        charts.nth(i).focus()
        tab.keyboard.press("End")
        tab.keyboard.press("Home")
        first = tab.text_content(".tip")
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowDown")
        assert tab.is_visible(".tip") and first and tab.text_content(".tip") != first, i
        tab.keyboard.press("Escape")
        assert not tab.is_visible(".tip")


def test_tab_reaches_every_control_and_plot(shown):
    tab = shown.tab
    wanted = tab.evaluate(
        "[...document.querySelectorAll('button, select, input, svg[role=group]')].filter(e => e.checkVisibility()).length"
    )
    reached = set()
    for _ in range(wanted + 5):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        named = tab.evaluate("document.activeElement.tagName")
        if named == "BODY":
            break
    assert len(reached - {0}) >= wanted


def test_navigation_goes_to_the_explorer_and_the_link_keeps_it(shown):
    shown.tab.click('nav button:has-text("Layer by site")')
    assert "at=map" in shown.link()
    assert shown.tab.eval_on_selector_all('nav [aria-current="true"]', "all => all.map(b => b.textContent)") == [
        "Layer by site"
    ]
    top = "document.getElementById('map').getBoundingClientRect().top"
    assert abs(shown.tab.evaluate(top)) < 200 or shown.tab.evaluate(
        "scrollY + innerHeight >= document.body.scrollHeight - 2"
    )
    shown.go("#at=map")
    assert shown.tab.evaluate("scrollY") > 0


def test_quantization_in_the_page_is_the_quantization_of_the_run(shown):
    """Sums in another order: 1e-9 dB is far above their rounding, 600 values of 53 bits each."""
    for fmt in ("int8", "int4", "fp8_e4m3", "fp8_e5m2"):
        for index, name in enumerate(RUNS[0][1].sites):
            summary = RUNS[0][1].sites[name]
            for threshold in ("max", "q0.999", "mse", summary.absmax / 3):
                ours = summary.quantization_error(fmt, threshold)
                mode = threshold if isinstance(threshold, str) else "absolute"
                theirs = shown.tab.evaluate(
                    "([index, fmt, mode, absolute]) => { const site = RUNS[0].sites[index];"
                    "const threshold = thresholdOf(fmt, mode, 1, absolute, site);"
                    "return { threshold, ...errorOf(fmt, threshold, magnitudes(site)) }; }",
                    [index, fmt, mode, threshold],
                )
                assert theirs["threshold"] == ours.threshold, (fmt, name, threshold)
                assert theirs["sqnr"] == pytest.approx(ours.sqnr_db, abs=1e-9)
                assert (theirs["clip"], theirs["zeroed"]) == (ours.clip_rate, ours.zeroed)


def test_the_quantization_explorer_calibrates_on_one_run_and_judges_another(shown):
    tab, summary = shown.tab, RUNS[0][1].sites["layer_0_mlp_act"]
    shown.choose("quantization.threshold", "q0.999")
    shown.choose("quantization.from", 1)
    calibrated = RUNS[1][1].sites["layer_0_mlp_act"].quantile(0.999)
    tab.locator("#quantization svg[role=group]").first.focus()
    tab.keyboard.press("Home")
    while "one · layer_0_mlp_act" not in tab.text_content(".tip b"):
        tab.keyboard.press("ArrowDown")
    error, text = summary.quantization_error("int8", calibrated), tab.text_content(".tip")
    assert f"{error.sqnr_db:.2f} dB" in text and "per token" in text and "become zero" in text and "M / rms" in text
    assert "threshold" + f"{calibrated:.9g}" in text
    assert shown.link() == "#quantization.threshold=q0.999&quantization.from=1"


def test_the_threshold_slider_moves_the_threshold(shown):
    tab = shown.tab
    assert not tab.is_visible('input[name="quantization.share"]')
    shown.choose("quantization.threshold", "share")
    before = shown.finding("quantization")
    shown.slide("quantization.share", 44)
    assert shown.finding("quantization") != before
    assert "quantization.share=0.125" in shown.link()
    shown.choose("quantization.format", "int4")
    assert "INT-4" in shown.finding("quantization")


def test_the_sun_explorer_counts_what_the_run_counted_and_follows_its_sliders(shown):
    run = RUNS[0][1]
    hidden = [run.sites[name] for name in run.sites if name.endswith("_hidden")]
    passed = sum(summary.n_massive_tokens for summary in hidden)
    assert f"{passed} tokens pass in 3 layers of one" in shown.finding("sun") and passed == 3
    for m, r in ((64, 16), (2**12, 2**14), (1, 2**18)):
        counted = shown.tab.evaluate(
            "([m, r]) => layersOf(RUNS[0], 'hidden').map((site) => passing(site, m, r))", [m, r]
        )
        row, column = 96 + 4 * (m.bit_length() - 1), 4 * (r.bit_length() - 1)
        expected = [int(summary.ratio_table[row:, column:].sum()) for summary in hidden]
        assert counted == [[n, n] for n in expected]
    shown.slide("sun.abs", 81)
    assert "no token passes in any layer of one" in shown.finding("sun")
    assert "sun.abs=1048576" in shown.link()


def test_pairs_read_out_the_ratio_of_each_step(shown):
    one, two = RUNS[0][1].M, RUNS[1][1].M
    assert f"Your runs {two / one:.3g}×" in shown.finding("pairs")
    shown.choose("pairs.which", "training")
    assert "Ling-mini, by tokens seen 1.54×" in shown.finding("pairs")
    for which, says in (("scaling", "Gemma 3 2.83×"), ("moe", "Qwen3 0.0428×"), ("generations", "Gemma, 27B 4.42×"),
                        ("instruct", "7B 1×"), ("vision", "32B 1×")):  # fmt: skip
        shown.choose("pairs.which", which)
        assert says in shown.finding("pairs")
    shown.choose("pairs.which", "picked")
    for name in ("two (yours)", "one (yours)", "gpt-oss-20b"):
        shown.tab.select_option('select[name="pairs.add"]', label=name)
    assert f"Your sequence {145408 / two:.3g}×" in shown.finding("pairs")
    shown.tab.click('#pairs .chip:has(span:text-is("two"))')
    assert f"Your sequence {145408 / one:.3g}×" in shown.finding("pairs")


def test_a_click_on_the_map_shows_that_site(shown):
    svg = shown.tab.locator("#map svg[role=group]")
    svg.focus()
    shown.tab.keyboard.press("End")
    shown.tab.keyboard.press("Enter")
    run = RUNS[0][1]
    assert shown.finding("site").startswith("layer_5_hidden of one: 640 values, the largest")
    summary = run.sites["layer_5_hidden"]
    assert f"{summary.absmax:.4g}" in shown.finding("site")
    shown.choose("site.kind", 1)
    shown.choose("site.view", "above")
    assert "attn_output" in shown.finding("site")


def test_the_largest_tokens_have_their_text_and_place(shown):
    shown.go("#site.kind=3&site.layer=2")
    row = shown.tab.locator("#site tbody tr").first
    assert row.locator("td").all_text_contents() == ["<s>", "-4,000", "5", "0", "0"]


def test_without_experts_their_explorer_says_so_in_a_sentence(shown):
    assert shown.finding("experts").startswith("No run here holds numbers of single experts")
