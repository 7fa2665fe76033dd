// 6a. Every site of a run at once: kind by layer, coloured by one number; a click shows the site below.
const METRICS = [
  ["absmax", "absmax", true],
  ["crest", "M / rms", true],
  ["ratio_max", "largest token ratio", true],
  ["q0.999", "0.999 quantile", true],
  ["rms", "rms", true],
  ["n_massive_tokens", "massive tokens", true],
  ["per_token_db", "INT-8 per token, dB", false],
];

explorer("map", "Layer by site", (self) => {
  const run = self.select(
    "run",
    "Run",
    () => runOptions(),
    () => 0,
  );
  const metric = self.select("z", "Colour", () => METRICS.map(([field, text]) => [field, text]));

  return (body) => {
    const shown = RUNS[run()],
      [field, text, log] = METRICS.find(([name]) => name === metric());
    const values = shown.sites
      .map((site) => site[field])
      .filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0));
    if (!values.length)
      return shown.sites.length ? `No site of ${shown.label} has a positive value here.` : "This run has no site.";
    const low = values.reduce((a, b) => Math.min(a, b)),
      high = values.reduce((a, b) => Math.max(a, b));
    const map = log ? Math.log10 : (v) => v;
    const share = (v) => (high > low ? (map(v) - map(low)) / (map(high) - map(low)) : 1);
    const width = Math.max(280, body.clientWidth),
      left = 128,
      columns = Math.max(1, shown.layers);
    const cell = (width - left - 8) / columns,
      row = 24,
      top = 8;
    const height = top + shown.kinds.length * row + 40;
    const svg = node("svg", { width, height, role: "group", "aria-label": `${text} of every site, kind by layer` });
    const marks = [];
    shown.kinds.forEach((kind, r) => {
      const y = top + r * row;
      const short = kind.length > 19 ? kind.slice(0, 18) + "…" : kind;
      svg.append(node("text", { x: left - 8, y: y + 16, "text-anchor": "end" }, short));
      for (const site of shown.sites.filter((s) => s.kind === kind)) {
        const column = site.layer !== null ? site.layer : site.index < shown.sites.length / 2 ? 0 : columns - 1;
        const value = site[field],
          x = left + column * cell;
        const known = value !== null && (!log || value > 0);
        svg.append(
          node("rect", {
            x,
            y: y + 1,
            width: Math.max(1, cell - (cell > 5 ? 1 : 0)),
            height: row - 2,
            fill: known ? heat(share(value)) : "none",
            class: known ? undefined : "axis",
          }),
        );
        marks.push({
          x: x + cell / 2,
          y: y + row / 2,
          series: kind,
          title: site.name,
          site,
          rows: () => [[text, log ? exact(value) : decibel(value)], ...siteRows(site)],
        });
      }
    });
    const every = Math.max(1, Math.ceil(36 / cell));
    for (let layer = 0; layer < columns; layer += every) {
      svg.append(
        node("text", { x: left + (layer + 0.5) * cell, y: height - 24, "text-anchor": "middle", class: "soft" }, layer),
      );
    }
    svg.append(node("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle", class: "soft" }, "layer"));
    body.append(svg);
    addMarks({ svg }, marks, { pick: ({ site }) => pickSite(site), reach: 40 });
    body.append(el("p", { className: "small soft" }, "Click a cell, or press Enter on it, to see the site below."));
    heatKey(body, log ? exact(low) : decibel(low), log ? exact(high) : decibel(high), text);
    const best = shown.sites.filter((s) => s[field] === high),
      spread = log && low > 0 ? `, ${factor(high / low)} over the smallest` : "";
    return `In ${shown.label} the largest value of "${text}" is ${log ? number(high) : decibel(high)}${spread}; it stands in ${listed(
      best.map((s) => s.name),
      3,
    )}.`;
  };
});

function heatKey(body, low, high, text) {
  const svg = node("svg", { width: 160, height: 12, "aria-hidden": "true" });
  for (let i = 0; i < 40; i++) svg.append(node("rect", { x: i * 4, y: 0, width: 4.2, height: 12, fill: heat(i / 39) }));
  body.append(
    el("p", { className: "small soft heatkey" }, el("span", {}, low), svg, el("span", {}, `${high}  ${text}`)),
  );
}
