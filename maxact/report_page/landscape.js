// 1. The landscape: M of every run, and of the published checkpoints, as bars on a log axis.
const OWN = RUNS.map((run) => {
  const sun = sunOf(run);
  return {
    name: run.label,
    family: run.family,
    M: run.M,
    own: true,
    run,
    places: run.peaks,
    tied: run.peaks.length,
    ratio: sun.ratio,
    passed: sun.tested ? sun.passed : null,
  };
});
const PUBLISHED = D.published.map((c) => ({
  name: c.model,
  family: c.family,
  M: Math.abs(c.M),
  own: false,
  places: [c.site],
  tied: c.n_tied,
  ratio: c.ratio_max,
  passed: c.n_massive_tokens,
  moe: c.moe,
  params: c.params,
}));
const CHECKPOINTS = [...OWN, ...PUBLISHED].filter((c) => c.M > 0 && Number.isFinite(c.M));
const FAMILIES = [...new Set(CHECKPOINTS.map((c) => c.family))];

explorer("landscape", "The landscape", (self) => {
  const published = self.check("published", "Show the published checkpoints", true);
  const order = self.select("order", "Order", () => [
    ["M", "by M"],
    ["family", "by family"],
  ]);
  const legend = self.legend(
    "off",
    "Families",
    FAMILIES.map((text, i) => ({ text, colour: i % 8 })),
  );

  return (body) => {
    const on = legend();
    const rows = CHECKPOINTS.filter(
      (c) => on(FAMILIES.indexOf(c.family)) && (!c.own || shownRuns().includes(c.run)) && (c.own || published()),
    );
    if (!rows.length) return "No run is switched on.";
    rows.sort((a, b) => (order() === "family" && FAMILIES.indexOf(a.family) - FAMILIES.indexOf(b.family)) || b.M - a.M);
    const x = { ...decades([1, 1e5, ...rows.map((c) => c.M)]), label: "M, the largest |x| outside routers" };
    const step = 24,
      narrow = body.clientWidth < 560;
    const left = narrow ? 122 : 196,
      most = narrow ? 15 : 30;
    const plot = frame(body, {
      title: "M by run, bars on a log axis",
      height: rows.length * step + (narrow ? 106 : 92),
      left,
      right: 74,
      top: narrow ? 52 : 38,
      x,
      y: { min: 0, max: 1, ticks: [] },
    });
    limit(plot, "x", 448, "448 E4M3", { dy: 10, dx: narrow ? 0 : 5, anchor: narrow ? "middle" : "start" });
    limit(plot, "x", 57344, "57,344 E5M2", { anchor: "end", dx: narrow ? 40 : 0, dy: narrow ? -18 : -4 });
    limit(plot, "x", 65504, "65,504 fp16", {
      anchor: narrow ? "end" : "start",
      dx: narrow ? 40 : 0,
      dy: narrow ? -4 : 10,
    });
    const marks = rows.map((c, i) => {
      const y = plot.edge.top + i * step + step / 2,
        end = plot.x(c.M),
        colour = FAMILIES.indexOf(c.family) % 8;
      const name = c.name.length > most ? c.name.slice(0, most - 1) + "…" : c.name;
      plot.svg.append(
        node("rect", {
          x: left,
          y: y - 7,
          width: Math.max(1, end - left),
          height: 14,
          rx: 2,
          class: `c${colour}`,
          fill: "currentColor",
          "fill-opacity": c.own ? 1 : 0.45,
        }),
        node("text", { x: left - 8, y: y + 4, "text-anchor": "end", "font-weight": c.own ? 650 : 400 }, name),
        node("text", { x: end + (c.passed === 0 ? 20 : 6), y: y + 4, class: "halo" }, number(c.M)),
      );
      if (c.passed === 0)
        plot.svg.append(
          node("path", { d: `M${end + 7} ${y - 4}l8 8m0 -8l-8 8`, stroke: "currentColor", "stroke-width": 2.2 }),
        );
      return { x: end, y, series: "M", title: c.name, rows: checkpointRows(c) };
    });
    addMarks(plot, marks, { along: "y", reach: step });
    const ends = [...rows].sort((a, b) => a.M - b.M),
      low = ends[0],
      high = ends[ends.length - 1];
    const over = rows.filter((c) => c.M > 65504).length,
      failed = rows.filter((c) => c.passed === 0).length;
    body.append(
      el(
        "p",
        { className: "soft small" },
        "✕ marks a run in whose residual stream no token passes the Sun test (|x| > 100 and > 1,000 medians of the token). Solid bars: your runs. " +
          (published()
            ? "Pale bars: checkpoints published in arXiv 2605.15572, measured on its corpus with about 17 million tokens each; another corpus gives other values."
            : ""),
      ),
    );
    const span =
      rows.length > 1
        ? `M goes from ${number(low.M)} (${low.name}) to ${number(high.M)} (${high.name}), ${factor(high.M / low.M)}`
        : `M is ${number(high.M)} (${high.name})`;
    return `${span}; ${over} of ${rows.length} exceed 65,504, the largest fp16, and ${failed} ${failed === 1 ? "has" : "have"} no token that passes the Sun test.`;
  };
});

function checkpointRows(c) {
  return [
    ["M", exact(c.M)],
    ["family", c.family + (c.moe ? ", MoE" : "")],
    ["at", listed(c.places, 2) || "–"],
    ["sites that tie", number(c.tied)],
    ["largest ratio, residual", exact(c.ratio)],
    ["tokens that pass", c.passed === null ? "not measured" : number(c.passed)],
    ["share of fp16's largest", percent(c.M / 65504)],
    ["source", c.own ? "your run" : "arXiv 2605.15572"],
  ];
}
