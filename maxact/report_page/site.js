// 6b. One site: its distribution, the channels that dominate, and the largest tokens with their text.
explorer("site", "One site", (self) => {
  const run = self.select(
    "run",
    "Run",
    () => runOptions(),
    () => 0,
  );
  const usual = () =>
    RUNS[run()] && RUNS[run()].peaks.length
      ? RUNS[run()].sites.find((s) => s.name === RUNS[run()].peaks[0])
      : RUNS[0].sites[0];
  const kindsOf = () => (RUNS[run()] ? RUNS[run()].kinds.map((kind, i) => [i, kind]) : [["0", "none"]]);
  const kind = self.select("kind", "Site kind", kindsOf, () =>
    RUNS[run()] && usual() ? RUNS[run()].kinds.indexOf(usual().kind) : 0,
  );
  const sitesOf = () => (RUNS[run()] ? RUNS[run()].sites.filter((s) => s.kind === RUNS[run()].kinds[kind()]) : []);
  const layer = self.select(
    "layer",
    "Layer",
    () => {
      const found = sitesOf().map((s) => [
        s.layer === null ? "none" : s.layer,
        s.layer === null ? "outside the layers" : s.layer,
      ]);
      return found.length ? found : [["none", "none"]];
    },
    () => {
      const site = sitesOf().includes(usual()) ? usual() : sitesOf()[0];
      return !site || site.layer === null ? "none" : site.layer;
    },
  );
  const view = self.select("view", "Distribution", () => [
    ["count", "count of each magnitude"],
    ["above", "share of values above"],
  ]);

  return (body) => {
    const site = sitesOf().find((s) => String(s.layer === null ? "none" : s.layer) === layer());
    if (!site) return "This run has no site.";
    body.append(el("h3", {}, "Magnitudes, both axes logarithmic"));
    distribution(body, site, view());
    const columns = el("div", { className: "columns" });
    const left = el("div", {}, el("h3", {}, "Channels by their largest |x|")),
      right = el("div", {}, el("h3", {}, "The largest tokens"));
    body.append(columns);
    columns.append(left, right);
    channels(left, site);
    tokens(right, site);
    if (!site.n_elements) return `${site.name} of ${site.run.label} saw no finite value.`;
    const middle = rankAt(site, Math.ceil(site.width / 2)),
      first = site.channels[0],
      more = site.absmax / site["q0.999"];
    return (
      `${site.name} of ${site.run.label}: ${number(site.n_elements)} values, the largest ${number(site.absmax)} (${number(site.crest)} rms${Number.isFinite(more) ? `, ${number(more)} times the 0.999 quantile` : ""})${first ? ` in channel ${first[0]}` : ""}` +
      (middle ? `; a channel of the middle rank reaches ${number(middle)}.` : ".")
    );
  };
});

// Shows a site here, from elsewhere on the page.
function pickSite(site) {
  link.set("site.run", site.run.index, 0);
  link.set("site.kind", site.run.kinds.indexOf(site.kind), "");
  link.set("site.layer", site.layer === null ? "none" : site.layer, "");
  const e = EXPLORERS.find(({ id }) => id === "site");
  e.redraw();
  go(e);
}

// The largest |x| of the channel at about this rank.
function rankAt(site, rank) {
  const at = site.ranks.find(([r]) => r >= rank);
  return at ? at[1] : null;
}

function distribution(body, site, view) {
  const table = magnitudes(site);
  if (!table) return body.append(el("p", {}, "This run was measured without counts: there is no table of magnitudes."));
  const { low, high, n } = table.bins,
    x = [...low].map((v, i) => (v + high[i]) / 2);
  const total = site.n_elements,
    above = new Float64Array(n.length);
  for (let i = n.length - 1, sum = 0; i >= 0; i--) {
    above[i] = sum / total;
    sum += n[i];
  }
  const y = view === "count" ? n : above;
  const known = x.map((_, i) => i).filter((i) => x[i] > 0 && y[i] > 0);
  if (!known.length) return body.append(el("p", {}, "Every value is zero."));
  const least = Math.max(x[known[known.length - 1]] * 1e-9, x[known[0]]);
  const plot = frame(body, {
    title: `${view === "count" ? "Counts" : "Share above"} of the magnitudes of ${site.name}`,
    height: 320,
    x: { ...decades([least, site.absmax]), label: "|x|" },
    y: {
      ...decades(known.map((i) => y[i])),
      label: view === "count" ? "values of this magnitude" : "share of values above",
    },
  });
  const shown = known.filter((i) => x[i] >= least),
    points = shown.map((i) => [plot.x(x[i]), plot.y(y[i])]);
  const d = view === "above" ? path(points) : points.map(([px, py]) => `M${px.toFixed(1)} ${py.toFixed(1)}h0`).join("");
  plot.svg.append(
    node("path", {
      d,
      class: `c${site.run.colour}`,
      stroke: "currentColor",
      fill: "none",
      "stroke-width": view === "above" ? 2.2 : 3,
      "stroke-linecap": "round",
    }),
  );
  const names = [
    ["rms", site.rms],
    ["0.999", site["q0.999"]],
    ["absmax", site.absmax],
  ];
  names.forEach(([text, value], i) => {
    if (!(value >= least)) return;
    const px = plot.x(value);
    plot.svg.append(
      node("line", { x1: px, x2: px, y1: plot.edge.top, y2: plot.edge.bottom, class: "limit" }),
      node(
        "text",
        {
          x: px - 4,
          y: plot.edge.top + 12 + 15 * i,
          "text-anchor": px > plot.edge.left + 60 ? "end" : "start",
          class: "mark halo",
        },
        `${text} ${number(value)}`,
      ),
    );
  });
  addMarks(
    plot,
    shown.map((i, k) => ({
      x: points[k][0],
      y: points[k][1],
      series: 0,
      title: low[i] === high[i] ? `|x| = ${exact(low[i])}` : `|x| from ${exact(low[i])} to ${exact(high[i])}`,
      rows: [
        ["values", number(n[i])],
        ["share above", percent(above[i])],
      ],
    })),
  );
  body.append(
    el(
      "p",
      { className: "small soft" },
      `${number(known.length)} different ${table.exact ? "magnitudes" : "bins of magnitudes"} occur; ${number(site.n_zero)} values are zero${least > x[known[0]] ? `; those under ${number(least)} are not drawn` : ""}. Within an octave magnitudes are evenly spaced, and twice as far apart in the next: hence the steps.`,
    ),
  );
}

function channels(body, site) {
  const points = [
    ...new Map([
      ...site.channels.map(([channel, value], i) => [i + 1, { channel, value }]),
      ...site.ranks.filter(([rank]) => rank > site.channels.length).map(([rank, value]) => [rank, { value }]),
    ]),
  ];
  const drawn = points.filter(([, { value }]) => value > 0);
  if (!drawn.length)
    return body.append(
      el("p", {}, points.length ? "Every channel is zero." : "The channels of this site are not known."),
    );
  const plot = frame(body, {
    title: `Channels of ${site.name} by rank`,
    height: 280,
    x: { ...decades([1, Math.max(10, site.width)]), label: `rank among ${number(site.width)} channels` },
    y: { ...decades(drawn.map(([, p]) => p.value)), label: "largest |x|" },
  });
  const at = drawn.map(([rank, { value }]) => [plot.x(rank), plot.y(value)]);
  plot.svg.append(
    node("path", {
      d: path(at),
      class: `c${site.run.colour}`,
      stroke: "currentColor",
      fill: "none",
      "stroke-width": 1.6,
    }),
  );
  let free = 0;
  at.forEach(([x, y], i) => {
    const { channel } = drawn[i][1];
    plot.svg.append(
      node("circle", {
        cx: x,
        cy: y,
        r: channel === undefined ? 2 : 4,
        class: `c${site.run.colour}`,
        fill: "currentColor",
      }),
    );
    if (channel !== undefined && x >= free) {
      plot.svg.append(node("text", { x: x + 7, y: y - 6, class: "halo" }, channel));
      free = x + 42;
    }
  });
  addMarks(
    plot,
    drawn.map(([rank, { channel, value }], i) => ({
      x: at[i][0],
      y: at[i][1],
      series: 0,
      title: channel === undefined ? `The channel of rank ${number(rank)}` : `Channel ${channel}, rank ${rank}`,
      rows: [["largest |x|", exact(value)]],
    })),
  );
}

function tokens(body, site) {
  if (!site.top.length) return body.append(el("p", {}, "No token was seen."));
  const expert = site.top.some((token) => token[4] !== null);
  const head = el(
    "tr",
    {},
    ...["token", "value", "channel", "sample", "position", ...(expert ? ["expert"] : [])].map((text, i) =>
      el("th", { scope: "col", className: i ? "" : "text" }, text),
    ),
  );
  const rows = site.top.map(([value, sample, position, channel, whose]) => {
    const text = site.run.tokens[`${sample}:${position}`];
    return el(
      "tr",
      {},
      el("td", { className: "text" }, text === undefined ? "–" : visible(text)),
      ...[exact(value), number(channel), number(sample), number(position), ...(expert ? [number(whose)] : [])].map(
        (v) => el("td", {}, v),
      ),
    );
  });
  const box = el(
    "div",
    { className: "scroll", tabIndex: 0 },
    el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)),
  );
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "The largest tokens");
  body.append(
    box,
    el(
      "p",
      { className: "small soft" },
      `The largest value of each token that stands among the largest values of this site.`,
    ),
  );
}

// A token's text with its spaces and controls shown.
function visible(text) {
  return text
    .replace(/ /g, "␣")
    .replace(/\n/g, "⏎")
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
}
