// 3. The Sun explorer: which tokens pass at other thresholds, from the tables of m_t and r_t.
const M_STOPS = [...octaves(0, 20).map(quarter), 100].sort((a, b) => a - b);
const R_STOPS = [...octaves(4, 18).map(quarter), 1000].sort((a, b) => a - b);

// Octaves are cut at 1, 1.25, 1.5 and 1.75, as the tables are.
function quarter(value, i) {
  return 2 ** Math.floor(Math.log2(value) + 1e-9) * (1 + (i % 4) / 4);
}

// [at least, at most] tokens of a site with m_t >= t_abs and r_t >= t_ratio; equal where both are edges of the table, or
// the thresholds that the run itself counted with.
function passing(site, tAbs, tRatio) {
  if (tAbs === site.t_abs && tRatio === site.t_ratio) return [site.n_massive_tokens, site.n_massive_tokens];
  const cells = ratioCells(site);
  if (!cells) return null;
  let least = 0,
    most = 0;
  for (const { m, r, n } of cells) {
    if (m[0] >= tAbs && r[0] >= tRatio) least += n;
    if (m[1] > tAbs && r[1] > tRatio) most += n;
  }
  return [least, most];
}

const between = ([least, most]) => (least === most ? number(least) : `${number(least)} to ${number(most)}`);

explorer("sun", "The Sun explorer", (self) => {
  const tAbs = self.slider(
    "abs",
    "|x| over",
    () => M_STOPS,
    () => 100,
    number,
  );
  const tRatio = self.slider(
    "ratio",
    "times its token's median over",
    () => R_STOPS,
    () => 1000,
    number,
  );
  const usual = () => Math.max(0, LAYER_KINDS.indexOf("hidden"));
  const kind = self.select("kind", "Site kind", () => LAYER_KINDS.map((k, i) => [i, k]), usual);
  const run = self.select(
    "run",
    "Tokens of",
    () => runOptions(),
    () => 0,
  );
  const layer = self.select("layer", "in layer", () => [
    ["all", "all"],
    ...(RUNS[run()] ? layersOf(RUNS[run()], LAYER_KINDS[kind()]) : []).map((s) => [s.layer, s.layer]),
  ]);

  return (body) => {
    const name = LAYER_KINDS[kind()];
    const lines = shownRuns()
      .map((shown) => ({
        shown,
        found: layersOf(shown, name)
          .map((site) => ({ site, n: passing(site, tAbs(), tRatio()) }))
          .filter(({ n }) => n),
      }))
      .filter(({ found }) => found.length);
    if (!lines.length) return "No run that is switched on has this kind of site with the medians of its tokens.";
    const columns = el("div", { className: "columns" });
    const left = el("div", {}, el("h3", {}, "Tokens that pass, by layer")),
      right = el("div");
    body.append(columns);
    columns.append(left, right);
    const counts = lines.flatMap(({ found }) => found.map(({ n }) => n[1]));
    const plot = frame(left, {
      title: `Tokens of ${name} that pass, by layer`,
      height: 320,
      x: { min: 0, max: Math.max(1, ...lines.map(({ shown }) => shown.layers - 1)), integer: true, label: "layer" },
      y: {
        ...decades([1, 10, ...counts]),
        min: 0.5,
        label: "tokens",
        ticks: [[0.5, "0"], ...ticksOf(decades([1, 10, ...counts]), 8)],
      },
    });
    const marks = [];
    for (const { shown, found } of lines) {
      const points = found.map(({ site, n }) => [plot.x(site.layer), plot.y(n[1]), plot.y(n[0])]);
      plot.svg.append(
        node("path", {
          d: path(points),
          class: `c${shown.colour}`,
          stroke: "currentColor",
          fill: "none",
          "stroke-width": 2.2,
          "stroke-dasharray": shown.dash,
        }),
      );
      points.forEach(([x, high, low], i) => {
        const { site, n } = found[i];
        plot.svg.append(
          node("circle", {
            cx: x,
            cy: high,
            r: 3,
            class: `c${shown.colour}`,
            fill: n[1] ? "currentColor" : "var(--paper)",
            stroke: "currentColor",
          }),
        );
        if (low > high)
          plot.svg.append(
            node("line", {
              x1: x,
              x2: x,
              y1: low,
              y2: high,
              class: `c${shown.colour}`,
              stroke: "currentColor",
              "stroke-opacity": 0.5,
            }),
          );
        marks.push({
          x,
          y: high,
          series: shown.index,
          title: `${shown.label} · ${site.name}`,
          rows: [
            ["tokens that pass", between(n)],
            ["of all", percent(n[1] / site.n_tokens)],
            ["tokens", number(site.n_tokens)],
            ["largest ratio", exact(site.ratio_max)],
            ["its |x|", exact(site.ratio_max_absmax)],
            ["its median", exact(site.ratio_max_median)],
          ],
        });
      });
    }
    addMarks(plot, marks, { reach: 60 });
    runKey(
      left,
      lines.map(({ shown }) => shown),
    );
    density(right, RUNS[run()], name, layer(), tAbs(), tRatio());
    return (
      `With |x| over ${number(tAbs())} and over ${number(tRatio())} times the median of its token:\n` +
      lines
        .slice(0, 4)
        .map(({ shown, found }) => {
          const sum = found.reduce(([a, b], { n }) => [a + n[0], b + n[1]], [0, 0]),
            layers = found.filter(({ n }) => n[1]).length;
          return sum[1]
            ? `${between(sum)} tokens pass in ${plural(layers, "layer")} of ${shown.label}, counted at each layer`
            : `no token passes in any layer of ${shown.label}, whose largest ratio is ${number(Math.max(...found.map(({ site }) => site.ratio_max || 0)))}`;
        })
        .join(";\n") +
      "."
    );
  };
});

// Where the tokens of a run stand: m_t across, r_t up, what passes shaded.
function density(body, run, name, layer, tAbs, tRatio) {
  const sites = layersOf(run, name).filter((site) => layer === "all" || String(site.layer) === layer);
  body.append(
    el(
      "h3",
      {},
      `Tokens of ${run.label}, ${layer === "all" ? `all layers of ${name}` : sites.length ? sites[0].name : "no layer"}`,
    ),
  );
  const cells = new Map();
  for (const cell of sites.flatMap((site) => ratioCells(site) || [])) {
    const key = `${cell.m[0]} ${cell.r[0]}`;
    cells.set(key, { ...cell, n: cell.n + (cells.has(key) ? cells.get(key).n : 0) });
  }
  const all = [...cells.values()];
  if (!all.length) return body.append(el("p", {}, "No token here has |x| of 1 and 16 medians or more."));
  const plot = frame(body, {
    title: "Tokens by their largest value and its ratio to their median",
    height: 320,
    x: { ...decades([1, 1000, ...all.map((c) => c.m[0] * 1.25)]), label: "m, the largest |x| of a token" },
    y: { ...decades([10, 2000, ...all.map((c) => c.r[0] * 1.25)]), label: "m / median of the token" },
  });
  const high = Math.log(Math.max(2, ...all.map((c) => c.n)));
  const marks = all.map((c) => {
    const [x1, x2] = c.m.map(plot.x),
      [y2, y1] = c.r.map(plot.y);
    plot.svg.append(
      node("rect", {
        x: x1,
        y: y1,
        width: Math.max(1, x2 - x1 - 0.5),
        height: Math.max(1, y2 - y1 - 0.5),
        fill: heat(0.1 + 0.9 * (Math.log(c.n) / high)),
      }),
    );
    return {
      x: (x1 + x2) / 2,
      y: (y1 + y2) / 2,
      series: c.r[0],
      title: plural(c.n, "token"),
      rows: [
        ["largest |x|", `${number(c.m[0])} to ${number(c.m[1])}`],
        ["over its median", `${number(c.r[0])} to ${number(c.r[1])}`],
      ],
    };
  });
  const x = plot.x(tAbs),
    y = plot.y(tRatio);
  plot.svg.append(
    node("rect", { x, y: plot.edge.top, width: plot.edge.right - x, height: y - plot.edge.top, class: "shade" }),
    node("path", { d: `M${x} ${plot.edge.top}V${y}H${plot.edge.right}`, class: "limit", fill: "none" }),
    node("text", { x: plot.edge.right - 5, y: plot.edge.top + 14, "text-anchor": "end", class: "mark halo" }, "passes"),
  );
  marks.sort((a, b) => b.series - a.series || a.x - b.x);
  addMarks(plot, marks);
  body.append(
    el(
      "p",
      { className: "small soft" },
      "Colour: how many tokens, on a logarithmic scale. Tokens under |x| = 1 or 16 medians are not drawn.",
    ),
  );
}
