// 5b. SQNR of one site at every threshold, in each format.
function sweep(body, site, chosen) {
  const table = magnitudes(site);
  if (!table || !(site.absmax > 0)) return;
  body.append(el("h3", {}, `Every threshold: ${site.name} of ${site.run.label}`));
  const high = Math.log2(site.absmax),
    thresholds = Array.from({ length: 97 }, (_, i) => 2 ** (high - 12 + i / 8));
  const curves = FORMATS.map(([fmt, text]) => [fmt, text, thresholds.map((t) => ({ t, ...errorOf(fmt, t, table) }))]);
  const values = [...curves.flatMap(([, , points]) => points.map((p) => p.sqnr)), site.per_token_db].filter(
    Number.isFinite,
  );
  if (!values.length) return;
  const plot = frame(body, {
    title: `SQNR of ${site.name} against the threshold`,
    height: 300,
    x: {
      log: true,
      min: thresholds[0],
      max: site.absmax,
      label: "threshold, log scale",
      ticks: ticksOf(decades(thresholds), 6).filter(([v]) => v >= thresholds[0] && v <= site.absmax),
    },
    y: {
      min: Math.floor(Math.min(0, ...values) / 5) * 5,
      max: Math.ceil(Math.max(22, ...values) / 5) * 5,
      label: "SQNR, dB",
    },
  });
  limit(plot, "y", 20, "20 dB");
  const marks = [];
  curves.forEach(([fmt, text, points], i) => {
    const on = points.map((p) => (Number.isFinite(p.sqnr) ? [plot.x(p.t), plot.y(p.sqnr)] : null));
    plot.svg.append(
      node("path", {
        d: path(on),
        class: `c${i}`,
        stroke: "currentColor",
        fill: "none",
        "stroke-width": fmt === chosen ? 3 : 1.6,
        "stroke-dasharray": ["", "7 3", "2 3", "9 3 2 3"][i],
      }),
    );
    points.forEach(
      (p, k) =>
        on[k] &&
        marks.push({
          x: on[k][0],
          y: on[k][1],
          series: fmt,
          title: `${text} at ${exact(p.t)}`,
          rows: [
            ["SQNR", decibel(p.sqnr)],
            ["become zero", percent(p.zeroed)],
            ["clipped", percent(p.clip)],
            ["INT-8, a scale per token", decibel(site.per_token_db)],
            ["M / rms", number(site.crest)],
          ],
        }),
    );
  });
  const labels = [];
  for (const [mode, text] of THRESHOLDS.slice(0, 3)) {
    const t = thresholdOf(chosen, mode, 1, 1, site);
    if (!(t > 0)) continue;
    const e = errorOf(chosen, t, table),
      x = plot.x(t),
      y = plot.y(Number.isFinite(e.sqnr) ? e.sqnr : 0);
    // Above what is there already, so that none covers another.
    const near = labels.filter((label) => Math.abs(label.x - x) < 150).map((label) => label.y);
    labels.push({ x, y: [y - 8, ...near.sort((a, b) => b - a)].reduce((at, other) => (Math.abs(at - other) < 15 ? other - 15 : at)) });
    plot.svg.append(
      node("circle", { cx: x, cy: y, r: 5, fill: "var(--ink)" }),
      node(
        "text",
        {
          x: x - 8,
          y: labels[labels.length - 1].y,
          "text-anchor": x > plot.edge.left + 120 ? "end" : "start",
          class: "halo",
        },
        text,
      ),
    );
    marks.push({
      x,
      y,
      series: "chosen",
      title: `${FORMATS.find(([f]) => f === chosen)[1]} at ${text}, ${exact(t)}`,
      rows: [
        ["SQNR", decibel(e.sqnr)],
        ["become zero", percent(e.zeroed)],
        ["clipped", percent(e.clip)],
      ],
    });
  }
  if (Number.isFinite(site.per_token_db)) {
    const y = plot.y(site.per_token_db);
    plot.svg.append(
      node("line", { x1: plot.edge.left, x2: plot.edge.right, y1: y, y2: y, class: "axis", "stroke-width": 2 }),
      node(
        "text",
        { x: plot.edge.left + 6, y: y - 5, class: "halo soft" },
        `INT-8, a scale per token: ${decibel(site.per_token_db)}`,
      ),
    );
  }
  addMarks(plot, marks, { reach: 60 });
  const key = el("p", { className: "small" });
  FORMATS.forEach(([, text], i) => key.append(lineKey(text, i, ["", "7 3", "2 3", "9 3 2 3"][i])));
  body.append(key);
}
