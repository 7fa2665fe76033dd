// 2. Trajectories: absmax of every layer against normalised depth, and where it jumps.

// The largest step between neighbouring layers on the way to the peak. A jump-and-plateau: one step makes at least half
// of the whole rise (in logarithms) and at least a factor 4, and most layers from there on stay above a quarter of the
// peak. A late jump: the same without the plateau. Everything else is gradual.
function jumpOf(sites) {
  const known = sites.filter((site) => site.absmax > 0 && Number.isFinite(site.absmax));
  if (known.length < 3) return null;
  const peak = known.reduce((a, b) => (b.absmax > a.absmax ? b : a));
  const rise = Math.log(peak.absmax / known[0].absmax);
  let at = 1;
  for (let i = 1; i < known.length; i++) {
    if (known[i].absmax / known[i - 1].absmax > known[at].absmax / known[at - 1].absmax) at = i;
  }
  const step = known[at].absmax / known[at - 1].absmax,
    after = known.slice(at);
  const high = after.filter((site) => site.absmax >= peak.absmax / 4).length;
  const jumps = step >= 4 && Math.log(step) >= rise / 2;
  const shape = !jumps
    ? "gradual"
    : after.length >= 3 && high > after.length / 2
      ? "jump-and-plateau"
      : "a jump without a plateau";
  return { site: known[at], step, shape, peak, share: rise > 0 ? Math.log(step) / rise : null };
}

explorer("trajectories", "Trajectories", (self) => {
  const usual = () => (LAYER_KINDS.includes("hidden") ? "hidden" : LAYER_KINDS[0]);
  const kind = self.select(
    "kind",
    "Site kind",
    () => LAYER_KINDS.map((k) => [LAYER_KINDS.indexOf(k), k]),
    () => Math.max(0, LAYER_KINDS.indexOf(usual())),
  );
  const what = self.select("y", "Value", () => [
    ["absmax", "absmax"],
    ["q0.999", "0.999 quantile"],
    ["rms", "rms"],
    ["crest", "M / rms"],
    ["ratio_max", "largest token ratio"],
  ]);
  const tokens = self.select("tokens", "Tokens", () => [["all", "all"], ...GROUPS.map((group, i) => [i, group])]);
  const depth = self.select("x", "Depth", () => [
    ["share", "normalised"],
    ["layer", "layer number"],
  ]);

  return (body) => {
    const name = LAYER_KINDS[kind()],
      group = GROUPS[tokens()],
      field = group === undefined ? what() : "absmax";
    const lines = shownRuns()
      .map((run) => ({ run, sites: ofGroup(layersOf(run, name), group) }))
      .filter((line) => line.sites.length);
    if (!lines.length)
      return group === undefined
        ? "No run that is switched on has this kind of site."
        : `No run that is switched on counted the tokens of the group ${group} at this kind of site.`;
    const values = lines.flatMap((line) => line.sites.map((site) => site[field]));
    const last = Math.max(...lines.map((line) => line.run.layers)) - 1;
    const position = (site) => (depth() === "share" ? site.layer / Math.max(1, site.run.layers - 1) : site.layer);
    const plot = frame(body, {
      title: `${field} of ${name} against depth${group === undefined ? "" : `, tokens of the group ${group}`}`,
      height: 360,
      x: {
        min: 0,
        max: depth() === "share" ? 1 : Math.max(1, last),
        integer: depth() === "layer",
        label: depth() === "share" ? "depth, 0 the first layer and 1 the last" : "layer",
      },
      y: { ...decades(values), label: field },
    });
    if (field === "absmax") {
      for (const [text, value, format] of [LIMITS[0], LIMITS[2]]) {
        if (values.some((v) => v > value / 20) && plot.y(value) > plot.edge.top)
          limit(plot, "y", value, `${text} ${format}`);
      }
    }
    const marks = [],
      labels = [],
      sentences = [];
    for (const { run, sites } of lines) {
      const points = sites.map((site) => (site[field] > 0 ? [plot.x(position(site)), plot.y(site[field])] : null));
      plot.svg.append(
        node("path", {
          d: path(points),
          class: `c${run.colour}`,
          stroke: "currentColor",
          "stroke-width": 2.2,
          "stroke-dasharray": run.dash,
          fill: "none",
        }),
      );
      const jump = field === "absmax" ? jumpOf(sites) : null;
      sites.forEach((site, i) => {
        if (!points[i]) return;
        const [x, y] = points[i],
          jumped = jump && jump.site === site && jump.shape !== "gradual";
        plot.svg.append(
          node("circle", { cx: x, cy: y, r: jumped ? 5 : 2.4, class: `c${run.colour}`, fill: "currentColor" }),
        );
        marks.push({ x, y, series: run.index, title: `${run.label} · ${site.name}`, rows: siteRows(site) });
        if (jumped) labels.push({ x, y, colour: run.colour, text: `layer ${site.layer}: ${factor(jump.step)}` });
      });
      if (jump) {
        sentences.push(
          `${run.label}: ${jump.shape}, ` +
            (jump.shape === "gradual"
              ? `its largest step is ${factor(jump.step)} at layer ${jump.site.layer}`
              : `layer ${jump.site.layer} multiplies absmax by ${number(jump.step, 3)}`) +
            `, up to ${number(jump.peak.absmax)} at layer ${jump.peak.layer}`,
        );
      }
    }
    jumpLabels(plot, labels);
    addMarks(plot, marks, { reach: 60 });
    runKey(
      body,
      lines.map((line) => line.run),
    );
    if (field === "absmax") {
      body.append(
        el(
          "p",
          { className: "soft small" },
          "Jump: the largest step between neighbouring layers, if it is at least a factor 4 and half of the whole rise in logarithms. Plateau: more than half of the layers from there on hold at least a quarter of the peak.",
        ),
      );
      return (
        (sentences.length ? sentences.slice(0, 4).join(".\n") : `${name} has fewer than three layers with a value`) +
        "."
      );
    }
    const top = lines
      .flatMap((line) => line.sites)
      .filter((s) => s[field] !== null)
      .reduce((a, b) => (a && a[field] >= b[field] ? a : b), null);
    return top
      ? `The largest ${field} of ${name} is ${number(top[field])}, in ${top.name} of ${top.run.label}.`
      : "No value here.";
  };
});

// One above its mark, or as near below as no other stands.
function jumpLabels(plot, labels) {
  const placed = [];
  for (const { x, y, colour, text } of labels) {
    const width = text.length * 7,
      before = x - plot.edge.left > width + 10,
      from = before ? x - 9 - width : x + 9;
    const free = (at) =>
      at > plot.edge.top + 9 &&
      placed.every((p) => Math.abs(p.at - at) >= 14 || p.from > from + width || from > p.from + p.width);
    const at = [-9, -24, 21, 36, 51, 66].map((dy) => y + dy).find(free) ?? y + 81;
    placed.push({ from, width, at });
    const anchor = before ? "end" : "start";
    const place = {
      x: before ? x - 9 : x + 9,
      y: at,
      "text-anchor": anchor,
      class: `halo c${colour}`,
      fill: "currentColor",
    };
    plot.svg.append(node("text", place, text));
  }
}

// The sites as the tokens of one group have them; of the others nothing but these three numbers is kept.
function ofGroup(sites, group) {
  if (group === undefined) return sites;
  return sites.flatMap((site) => {
    const { groups } = site.run;
    if (!Object.hasOwn(groups, group) || !Object.hasOwn(groups[group], site.name)) return [];
    const [absmax, n_tokens, n_massive_tokens] = groups[group][site.name];
    return [{ run: site.run, name: site.name, layer: site.layer, group, absmax, n_tokens, n_massive_tokens }];
  });
}

function siteRows(site) {
  if (site.group !== undefined)
    return [
      ["absmax", exact(site.absmax)],
      ["tokens of the group", number(site.n_tokens)],
      ["massive tokens", number(site.n_massive_tokens)],
    ];
  return [
    ["absmax", exact(site.absmax)],
    ["elements with it", number(site.n_absmax)],
    ["rms", number(site.rms)],
    ["M / rms", number(site.crest)],
    ["0.999 quantile", exact(site["q0.999"])],
    ["largest token ratio", exact(site.ratio_max)],
    ["massive tokens", number(site.n_massive_tokens)],
  ];
}

// Which line is which run, where several are drawn.
function runKey(body, runs) {
  if (runs.length < 2) return;
  const key = el("p", { className: "small" });
  for (const run of runs) key.append(lineKey(run.label, run.colour, run.dash));
  body.append(key);
}

function lineKey(text, colour, dash) {
  const line = node("svg", { width: 26, height: 10, "aria-hidden": "true" });
  line.append(
    node("line", {
      x1: 0,
      x2: 26,
      y1: 5,
      y2: 5,
      class: `c${colour}`,
      stroke: "currentColor",
      "stroke-width": 3,
      "stroke-dasharray": dash,
    }),
  );
  return el("span", { className: "key" }, line, text);
}
