// 8. Is M the maximum? The expected M of fewer samples, exact over all subsets, and M by domain.
explorer("stability", "Enough samples?", (self) => {
  const domainsOf = self.select("run", "Domains of", () => {
    const found = runOptions(RUNS.filter((run) => run.stability));
    return found.length ? found : [["none", "none"]];
  });

  return (body) => {
    const runs = shownRuns().filter((run) => run.stability && run.stability.M > 0);
    if (!runs.length)
      return "No run that is switched on tells its samples apart, so nothing says whether more of them would raise M.";
    const columns = el("div", { className: "columns" });
    const left = el("div", {}, el("h3", {}, "Expected M of so many samples")),
      right = el("div");
    body.append(columns);
    columns.append(left, right);
    saturation(left, runs);
    const chosen = RUNS[domainsOf()] || runs[0];
    domains(right, chosen);
    return runs
      .slice(0, 3)
      .map(
        ({ label, stability: s }) =>
          `${label}: ${s.saturated ? "saturated for samples like these" : "not saturated"}: the last doubling, to ${plural(s.n_samples, "sample")}, raised the expected M by ${percent(s.growth_per_doubling)}, ${s.n_near === 1 ? "1 sample comes" : `${number(s.n_near)} samples come`} within 1 % of M, and with 95 % confidence at most ${percent(s.exceeding_share)} of samples like these exceed it.`,
      )
      .join("\n");
  };
});

function saturation(body, runs) {
  const most = Math.max(...runs.map((run) => run.stability.n_samples));
  const ends = runs.flatMap((run) => run.stability.curve.flatMap((row) => row.slice(1)));
  const powers = Array.from({ length: Math.ceil(Math.log2(most)) + 1 }, (_, i) => 2 ** i),
    every = Math.ceil(powers.length / 7);
  const plot = frame(body, {
    title: "Expected M against the number of samples",
    height: 300,
    x: {
      log: true,
      min: 1,
      max: Math.max(2, most),
      label: "samples",
      ticks: powers.filter((v) => v <= most).map((v, i) => [v, i % every ? null : number(v)]),
    },
    y: { ...spread(ends), label: "M" },
  });
  const marks = [];
  for (const run of runs) {
    const rows = run.stability.curve,
      at = (k) => rows.map((row) => [plot.x(row[0]), plot.y(row[k])]);
    const band = [...at(2), ...at(6).reverse()];
    plot.svg.append(
      node("path", { d: path(band) + "Z", class: `c${run.colour}`, fill: "currentColor", "fill-opacity": 0.13 }),
      node("path", {
        d: path(at(1)),
        class: `c${run.colour}`,
        stroke: "currentColor",
        fill: "none",
        "stroke-width": 2.2,
        "stroke-dasharray": run.dash,
      }),
    );
    at(1).forEach(([x, py], i) => {
      plot.svg.append(node("circle", { cx: x, cy: py, r: 3, class: `c${run.colour}`, fill: "currentColor" }));
      const [n, mean, q5, , q50, , q95] = rows[i];
      marks.push({
        x,
        y: py,
        series: run.index,
        title: `${run.label}, ${plural(n, "sample")}`,
        rows: [
          ["expected M", exact(mean)],
          ["0.05 quantile", exact(q5)],
          ["median", exact(q50)],
          ["0.95 quantile", exact(q95)],
        ],
      });
    });
  }
  addMarks(plot, marks, { reach: 60 });
  runKey(body, runs);
  body.append(
    el(
      "p",
      { className: "small soft" },
      "Over all subsets of so many of the measured samples, exact; the band holds 90 % of them. It speaks of samples like these, not of others.",
    ),
  );
}

// From 0 where the values are of one size, in decades where they are not.
function spread(values) {
  const known = values.filter((v) => v > 0 && Number.isFinite(v)),
    high = Math.max(...known);
  return high / Math.min(...known) > 20 ? decades(known) : { min: 0, max: high * 1.08 };
}

function domains(body, run) {
  const s = run.stability,
    step = 22,
    rows = [...s.domains].sort((a, b) => b[2] - a[2]).slice(0, 16);
  body.append(el("h3", {}, `M by domain: ${run.label}`));
  const plot = frame(body, {
    title: "M by domain",
    height: rows.length * step + 62,
    left: 118,
    right: 70,
    top: 6,
    x: { ...spread(rows.map((row) => row[2])), label: "M" },
    y: { min: 0, max: 1, ticks: [] },
  });
  addMarks(
    plot,
    rows.map(([name, n, M], i) => {
      const y = plot.edge.top + (i + 0.5) * step,
        x = plot.x(M);
      plot.svg.append(
        node("rect", {
          x: plot.edge.left,
          y: y - 6,
          width: Math.max(1, x - plot.edge.left),
          height: 12,
          rx: 2,
          class: `c${run.colour}`,
          fill: "currentColor",
        }),
        node(
          "text",
          { x: plot.edge.left - 8, y: y + 4, "text-anchor": "end" },
          name.length > 16 ? name.slice(0, 15) + "…" : name,
        ),
        node("text", { x: x + 6, y: y + 4, class: "halo" }, number(M)),
      );
      return {
        x,
        y,
        series: 0,
        title: name,
        rows: [
          ["M", exact(M)],
          ["samples", number(n)],
        ],
      };
    }),
    { along: "y", reach: step },
  );
  if (s.domains.length > rows.length)
    body.append(el("p", { className: "small soft" }, `The ${rows.length} largest of ${s.domains.length} domains.`));
}
