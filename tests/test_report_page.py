"""A report page in a real browser: it draws without an error or a request, and each control does what it says."""

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
    top = "document.getElementById('map').getBoundingClientRect().top"
    assert abs(shown.tab.evaluate(top)) < 200 or shown.tab.evaluate(
        "scrollY + innerHeight >= document.body.scrollHeight - 2"
    )
    shown.go("#at=map")
    assert shown.tab.evaluate("scrollY") > 0
