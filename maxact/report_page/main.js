// The head of the page, the way to each section, and the first drawing.
function headline() {
  if (!RUNS.length) return "No run";
  const top = RUNS.reduce((a, b) => (b.M > a.M ? b : a));
  return RUNS.length === 1
    ? `${top.label}: the largest activation is ${number(top.M)}`
    : `The largest activation of ${RUNS.length} runs is ${number(top.M)}, in ${top.label}`;
}

function card(run) {
  const box = el("input", { type: "checkbox", name: "runs", checked: !link.off("runs").has(run.index) });
  box.addEventListener("change", () => {
    link.toggle("runs", run.index);
    redrawAll();
  });
  const sun = sunOf(run),
    facts = run.facts;
  const room =
    run.M > 0
      ? run.M <= 65504
        ? `${factor(65504 / run.M)} below the largest fp16`
        : `${factor(run.M / 65504)} over the largest fp16`
      : "";
  const bad = run.sites.filter((site) => site.n_nan || site.n_inf);
  const lines = [
    el("label", {}, box, run.label),
    el("div", { className: "figure" }, `M ${number(run.M)}`),
    el(
      "p",
      {},
      `${room}, at ${run.peaks.length > 2 ? `${run.peaks[0]} … ${run.peaks[run.peaks.length - 1]} (${run.peaks.length} sites)` : listed(run.peaks) || "no site"}`,
    ),
    el(
      "p",
      {},
      sun.tested
        ? sun.passed
          ? `${plural(sun.passed, "token")} pass the Sun test in the residual stream, counted at each layer`
          : "No token passes the Sun test in the residual stream"
        : "The residual stream was not measured",
    ),
    el(
      "p",
      { className: "soft" },
      [
        facts.model,
        facts.dtype,
        facts.corpus && `corpus ${facts.corpus}`,
        facts.samples && plural(Number(facts.samples), "sample"),
        facts.tokens && plural(Number(facts.tokens), "token"),
        facts.special,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
  ];
  if (facts.imported)
    lines.push(el("p", { className: "soft" }, "Imported from published files: they hold no tables and no places."));
  if (run.partial)
    lines.push(
      el("p", { className: "warn" }, "PARTIAL: the measurement was interrupted; this is not the whole corpus."),
    );
  if (bad.length)
    lines.push(
      el(
        "p",
        { className: "warn" },
        `NOT FINITE: ${plural(bad.length, "site")} hold nan or inf, first ${bad[0].name}; every figure is over the finite elements.`,
      ),
    );
  return el("div", { className: `card c${run.colour}` }, ...lines);
}

function go(e) {
  link.set("at", e.id, "");
  e.section.scrollIntoView();
  e.section.focus({ preventScroll: true });
}

const bar = el("div"),
  buttons = new Map();
for (const e of EXPLORERS) {
  const button = el("button", { type: "button", textContent: e.title });
  button.addEventListener("click", () => go(e));
  bar.append(button);
  buttons.set(e.section, button);
}
// The section in the upper part of the window is the current one.
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) buttons.get(target).setAttribute("aria-current", isIntersecting);
  },
  { rootMargin: "-20% 0px -79% 0px" },
);
const cards = el("div", { className: "cards" });
const showCards = () => cards.replaceChildren(...RUNS.map(card));
showCards();
const nav = el("nav", {}, bar);
nav.setAttribute("aria-label", "Explorers");
document.body.append(
  el(
    "header",
    {},
    el("h1", {}, headline()),
    el(
      "p",
      { className: "soft" },
      "Measured with maxact: every element counted. Point at a mark, or move to a plot with Tab and through it with the arrow keys, to read exact values; the address of this page keeps what you have set.",
    ),
    cards,
  ),
  nav,
  el("main", {}, ...EXPLORERS.map((e) => e.section)),
  el("footer", {}, mergedNote()),
  tip,
);

function mergedNote() {
  return D.merged_bits === null
    ? "The tables of magnitudes are whole: what is computed from them here is exact for bf16 and fp16, and known to a bin of 2⁻⁷ for fp32."
    : `To keep this page small, all but the largest magnitudes of each site are merged, ${2 ** D.merged_bits} bins an octave, and spread evenly again; figures computed here from them carry their bounds. A page of fewer runs holds every magnitude.`;
}

addEventListener("hashchange", () => {
  link.read();
  showCards();
  redrawAll();
  arrive();
});
EXPLORERS.forEach((e) => watcher.observe(e.section));
let lastWidth = innerWidth,
  resizing = 0;
addEventListener("resize", () => {
  if (innerWidth === lastWidth) return; // phones change the height as their bars come and go
  lastWidth = innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(redrawAll, 150);
});

function arrive() {
  const e = EXPLORERS.find(({ id }) => id === link.get("at", ""));
  if (!e) return;
  for (const other of EXPLORERS) if (other.stale) other.redraw();
  e.section.scrollIntoView();
}

arrive();
redrawAll();
