// 7. MoE: every expert by its largest |x| and the tokens it saw.
explorer("experts", "Experts", (self) => {
  const holders = RUNS.filter((run) => Object.keys(run.experts).length);
  const names = (run) => (run ? Object.keys(run.experts) : []);
  const run = self.select("run", "Run", () => (holders.length ? runOptions(holders) : [["none", "none"]]));
  const layer = self.select("layer", "Layer", () => [
    ["all", "all layers"],
    ...names(RUNS[run()]).map((name, i) => [i, layerName(RUNS[run()].experts[name], name)]),
  ]);
  const colour = self.select("z", "Colour of the map", () => [
    ["absmax", "largest |x|"],
    ...(holders.length
      ? [
          ["n_tokens", "tokens seen"],
          ["n_massive_tokens", "massive tokens"],
        ]
      : []),
  ]);

  return (body) => {
    const shown = RUNS[run()];
    if (!shown) return "No run here holds numbers of single experts: its model has none, or they were not measured.";
    const all = names(shown).flatMap((name, row) => {
      const e = shown.experts[name];
      return e.absmax.map((absmax, expert) => ({
        row,
        name,
        layer: e.layer,
        expert,
        absmax,
        n_tokens: e.n_tokens[expert],
        n_massive_tokens: e.n_massive_tokens[expert],
      }));
    });
    const chosen = all.filter((e) => layer() === "all" || String(e.row) === layer()),
      seen = chosen.filter((e) => e.n_tokens > 0 && e.absmax > 0);
    if (!seen.length) return `No expert of ${shown.label} saw a token here.`;
    const rows = (e) => [
      ["largest |x|", exact(e.absmax)],
      ["tokens seen", number(e.n_tokens)],
      ["massive tokens", number(e.n_massive_tokens)],
    ];
    const title = (e) => `Layer ${e.layer === null ? e.name : e.layer}, expert ${e.expert}`;
    const columns = el("div", { className: "columns" }),
      left = el("div", {}, el("h3", {}, "Largest |x| against tokens seen")),
      right = el("div", {}, el("h3", {}, "Layer by expert"));
    body.append(columns);
    columns.append(left, right);
    const plot = frame(left, {
      title: "Experts by tokens seen and largest |x|",
      height: 340,
      x: { ...decades(seen.map((e) => e.n_tokens)), label: "tokens seen" },
      y: { ...decades(seen.map((e) => e.absmax)), label: "largest |x|" },
    });
    const marks = seen.map((e) => ({
      x: plot.x(e.n_tokens),
      y: plot.y(e.absmax),
      series: e.row,
      title: title(e),
      rows: () => rows(e),
    }));
    const dots = marks.map((m) => `M${m.x.toFixed(1)} ${m.y.toFixed(1)}h0`).join("");
    plot.svg.append(
      node("path", {
        d: dots,
        class: `c${shown.colour}`,
        stroke: "currentColor",
        "stroke-width": seen.length > 2000 ? 4 : 6,
        "stroke-opacity": 0.6,
        "stroke-linecap": "round",
      }),
    );
    addMarks(
      plot,
      marks.sort((a, b) => a.series - b.series || a.x - b.x),
    );
    expertMap(right, all, colour(), title, rows);
    const top = seen.reduce((a, b) => (b.absmax > a.absmax ? b : a)),
      unseen = chosen.length - chosen.filter((e) => e.n_tokens > 0).length;
    const sorted = seen.map((e) => e.absmax).sort((a, b) => a - b),
      middle = sorted[(sorted.length - 1) >> 1];
    return (
      `${title(top)} of ${shown.label} has the largest |x|, ${number(top.absmax)}, ${factor(top.absmax / middle)} the median expert's ${number(middle)}; it saw ${plural(top.n_tokens, "token")}. ` +
      (unseen
        ? `${number(unseen)} of ${plural(chosen.length, "expert")} saw none: of them nothing is known.`
        : `All ${plural(chosen.length, "expert")} saw tokens.`)
    );
  };
});

function layerName({ layer }, name) {
  return layer === null ? name : layer;
}

// Many cells: a canvas, with an svg over it for what is under the pointer.
function expertMap(body, all, field, title, rows) {
  const names = [...new Set(all.map((e) => e.name))],
    widest = all.reduce((most, e) => Math.max(most, e.expert), 0) + 1;
  const width = Math.max(280, body.clientWidth),
    left = 48,
    height = Math.min(340, Math.max(60, names.length * 22)),
    top = 4;
  const values = all.map((e) => e[field]).filter((v) => v > 0 && Number.isFinite(v));
  const least = values.reduce((a, b) => Math.min(a, b), Infinity),
    most = values.reduce((a, b) => Math.max(a, b), 0);
  const share = (v) => (most > least ? Math.log(v / least) / Math.log(most / least) : 1);
  const cell = [(width - left - 4) / widest, height / names.length],
    dense = devicePixelRatio || 1;
  const canvas = el("canvas", { width: width * dense, height: (height + top) * dense, className: "under" });
  const pen = canvas.getContext("2d");
  pen.scale(dense, dense);
  const svg = node("svg", { width, height: height + top + 34, role: "group", "aria-label": "Experts of every layer" });
  const marks = all.map((e) => {
    const x = left + e.expert * cell[0],
      y = top + e.row * cell[1],
      v = e[field];
    if (v > 0 && Number.isFinite(v)) {
      pen.fillStyle = heat(share(v));
      pen.fillRect(x, y, Math.max(0.8, cell[0] - (cell[0] > 5)), Math.max(0.8, cell[1] - (cell[1] > 5)));
    }
    return { x: x + cell[0] / 2, y: y + cell[1] / 2, series: e.row, title: title(e), rows: () => rows(e) };
  });
  const every = Math.max(1, Math.ceil((14 * names.length) / height));
  names.forEach((name, i) => {
    if (i % every === 0)
      svg.append(
        node(
          "text",
          { x: left - 6, y: top + (i + 0.5) * cell[1] + 4, "text-anchor": "end", class: "soft" },
          String(
            layerName(
              all.find((e) => e.name === name),
              name,
            ),
          ).slice(0, 6),
        ),
      );
  });
  for (let i = 0; i < widest; i += Math.max(1, Math.ceil(widest / 8)))
    svg.append(
      node("text", { x: left + (i + 0.5) * cell[0], y: height + top + 15, "text-anchor": "middle", class: "soft" }, i),
    );
  svg.append(
    node("text", { x: (left + width) / 2, y: height + top + 31, "text-anchor": "middle", class: "soft" }, "expert"),
  );
  body.append(el("div", { className: "over" }, canvas, svg));
  addMarks({ svg }, marks);
  if (values.length) heatKey(body, exact(least), exact(most), field);
  body.append(el("p", { className: "small soft" }, "Colour on a logarithmic scale; an empty cell holds 0."));
}
