// 5. Quantization: SQNR of every layer at any threshold, with what it does not say beside it; calibrated here or elsewhere.
const THRESHOLDS = [
  ["max", "absmax"],
  ["q0.999", "0.999 quantile"],
  ["mse", "least squared error"],
  ["share", "a share of absmax"],
  ["absolute", "a number"],
];

explorer("quantization", "Quantization", (self) => {
  const usual = () =>
    Math.max(0, ["mlp_act", "mlp_input", "hidden"].map((k) => LAYER_KINDS.indexOf(k)).find((i) => i >= 0) ?? 0);
  const fmt = self.select("format", "Format", () => FORMATS);
  const kind = self.select("kind", "Site kind", () => LAYER_KINDS.map((k, i) => [i, k]), usual);
  const mode = self.select("threshold", "Threshold", () => THRESHOLDS);
  const share = self.slider(
    "share",
    "Share of absmax",
    () => octaves(-14, 0),
    () => 1,
    percent,
    () => mode() === "share",
  );
  const absolute = self.slider(
    "absolute",
    "|x| up to",
    () => octaves(-8, 20),
    () => 16,
    number,
    () => mode() === "absolute",
  );
  const from = self.select("from", "Calibrated on", () => [["self", "each run itself"], ...runOptions()]);
  const layer = self.select("layer", "Layer below", () => {
    const layers = new Set(shownRuns().flatMap((run) => layersOf(run, LAYER_KINDS[kind()]).map((site) => site.layer)));
    return [["worst", "lowest SQNR"], ...[...layers].sort((a, b) => a - b).map((l) => [l, l])];
  });

  const judge = (site) => {
    const table = magnitudes(site);
    const source = from() === "self" ? site : siteAt(RUNS[from()], site.kind, site.layer);
    const threshold = source ? thresholdOf(fmt(), mode(), share(), absolute(), source) : null;
    return table && threshold !== null ? { site, threshold, ...errorOf(fmt(), threshold, table) } : null;
  };

  return (body) => {
    const name = LAYER_KINDS[kind()],
      format = FORMATS.find(([f]) => f === fmt())[1];
    const lines = shownRuns()
      .map((run) => ({ run, found: layersOf(run, name).map(judge).filter(Boolean) }))
      .filter((line) => line.found.length);
    if (!lines.length)
      return "No run that is switched on has a table of magnitudes for this kind of site and this calibration.";
    const all = lines.flatMap((line) => line.found),
      finite = all.filter((e) => Number.isFinite(e.sqnr));
    const rows = (e) => [
      [`${format}, one scale`, decibel(e.sqnr)],
      ...(e.best > e.worst ? [["merged table, within", `${decibel(e.worst)} to ${decibel(e.best)}`]] : []),
      ["INT-8, a scale per token", e.site.per_token_db === null ? "not measured" : decibel(e.site.per_token_db)],
      ["become zero", percent(e.zeroed)],
      ["clipped", percent(e.clip)],
      ["M / rms", number(e.site.crest)],
      ["threshold", exact(e.threshold)],
      ["absmax", exact(e.site.absmax)],
    ];
    const x = { min: 0, max: Math.max(1, ...lines.map((line) => line.run.layers - 1)), integer: true, label: "layer" };
    const panel = (parent, title, height, y, read, second) => {
      const plot = frame(parent, { title, height, x, y: { ...y, label: y.label }, left: 62, bottom: 44 });
      const marks = [];
      for (const { run, found } of lines) {
        const draw = (get, extra, hollow) => {
          const points = found.map((e) =>
            get(e) === null || Number.isNaN(get(e)) ? null : [plot.x(e.site.layer), plot.y(get(e))],
          );
          plot.svg.append(
            node("path", { d: path(points), class: `c${run.colour}`, stroke: "currentColor", fill: "none", ...extra }),
          );
          points.forEach((p, i) => {
            if (!p) return;
            plot.svg.append(
              node("circle", {
                cx: p[0],
                cy: p[1],
                r: hollow ? 3 : 2.6,
                class: `c${run.colour}`,
                fill: hollow ? "var(--paper)" : "currentColor",
                stroke: "currentColor",
              }),
            );
            marks.push({
              x: p[0],
              y: p[1],
              open: hollow,
              series: `${run.index} ${hollow}`,
              title: `${run.label} · ${found[i].site.name}`,
              rows: () => rows(found[i]),
            });
          });
        };
        if (second) draw(second, { "stroke-dasharray": "2 3", "stroke-width": 1.4 }, true);
        draw(read, { "stroke-dasharray": run.dash, "stroke-width": 2.2 }, false);
      }
      return [plot, marks.sort((a, b) => a.open - b.open)];
    };
    const both = [...finite.map((e) => e.sqnr), ...all.map((e) => e.site.per_token_db).filter(Number.isFinite), 22];
    const y = {
      min: Math.floor(Math.min(0, ...both) / 5) * 5,
      max: Math.ceil(Math.max(...both) / 5) * 5,
      label: "SQNR, dB",
    };
    const [top, marks] = panel(
      body,
      `SQNR of ${name} by layer`,
      300,
      y,
      (e) => e.sqnr,
      (e) => e.site.per_token_db,
    );
    limit(top, "y", 20, "20 dB");
    addMarks(top, marks, { reach: 60 });
    body.append(
      el(
        "p",
        { className: "small soft" },
        `Full marks: ${format}, one scale per tensor. Open marks: INT-8 with a scale per token. A high SQNR may be a few huge values kept and all the rest lost: read it with the three plots below.`,
      ),
    );
    runKey(
      body,
      lines.map((line) => line.run),
    );
    const three = el("div", { className: "three" });
    body.append(three);
    const boxes = [0, 1, 2].map(() => el("div"));
    three.append(...boxes);
    const small = (box, title, yAxis, read) => {
      box.append(el("h3", {}, title));
      const [plot, points] = panel(box, `${title} of ${name} by layer`, 190, yAxis, read);
      addMarks(plot, points, { reach: 60 });
    };
    small(
      boxes[0],
      "Non-zero values that become zero",
      { min: 0, max: 1, ticks: [0, 0.25, 0.5, 0.75, 1].map((v) => [v, percent(v)]) },
      (e) => e.zeroed,
    );
    const clips = { ...decades([0.1, ...all.map((e) => e.clip)]), min: 1e-7 };
    small(
      boxes[1],
      "Values that are clipped",
      { ...clips, ticks: [[1e-7, "0 %"], ...[1e-5, 1e-3, 0.1].map((v) => [v, percent(v)])] },
      (e) => e.clip,
    );
    small(boxes[2], "M / rms", decades([1, 100, ...all.map((e) => e.site.crest)]), (e) => e.site.crest);
    sweep(
      body,
      layer() === "worst"
        ? finite.reduce((a, b) => (b.sqnr < a.sqnr ? b : a), all[0]).site
        : lines[0].found.map((e) => e.site).find((s) => String(s.layer) === layer()) || lines[0].found[0].site,
      fmt(),
    );
    return lines
      .slice(0, 2)
      .map((line) => verdict(line, format, name))
      .join("\n");
  };
});

function verdict({ run, found }, format, name) {
  const known = found.filter((e) => Number.isFinite(e.sqnr));
  if (!known.length) return `${run.label}: no layer of ${name} has a finite SQNR.`;
  const low = known.reduce((a, b) => (b.sqnr < a.sqnr ? b : a)),
    high = known.reduce((a, b) => (b.sqnr > a.sqnr ? b : a));
  const under = known.filter((e) => e.sqnr < 20),
    most = found.reduce((a, b) => (b.zeroed > a.zeroed ? b : a));
  const tokens = found.map((e) => e.site.per_token_db).filter(Number.isFinite);
  return (
    `${run.label}: one ${format} scale gives ${name} ${decibel(low.sqnr)} (layer ${low.site.layer}) to ${decibel(high.sqnr)} (layer ${high.site.layer}), ${under.length} of ${plural(known.length, "layer")} below 20 dB. In layer ${most.site.layer}, with ${decibel(most.sqnr)} and M / rms ${number(most.site.crest)}, ${percent(most.zeroed)} of the non-zero values become zero. ` +
    (tokens.length
      ? `INT-8 with a scale per token gives at least ${decibel(Math.min(...tokens))}.`
      : "A scale per token was not measured.")
  );
}
