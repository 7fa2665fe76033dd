// 4. Pairs and sequences: what M does along a family, a generation, a training; each step read out as a ratio.
const SEQUENCES = [
  [
    "scaling",
    "within a family, by size",
    [
      ["Qwen2.5", ["Qwen2.5-1.5B", "Qwen2.5-7B", "Qwen2.5-32B"]],
      ["Qwen2.5-Instruct", ["Qwen2.5-1.5B-Instruct", "Qwen2.5-7B-Instruct", "Qwen2.5-32B-Instruct"]],
      ["Qwen2.5-VL", ["Qwen2.5-VL-3B", "Qwen2.5-VL-7B", "Qwen2.5-VL-32B"]],
      ["Qwen3, dense", ["Qwen3-1.7B", "Qwen3-8B", "Qwen3-32B"]],
      ["Qwen3.5, dense", ["Qwen3.5-0.8B", "Qwen3.5-9B", "Qwen3.5-27B"]],
      ["Gemma 2", ["gemma-2-9b", "gemma-2-27b"]],
      ["Gemma 3", ["gemma-3-4b-it", "gemma-3-27b-it"]],
    ],
  ],
  [
    "moe",
    "dense to MoE",
    [
      ["Qwen3", ["Qwen3-32B", "Qwen3-30B-A3B"]],
      ["Qwen3.5", ["Qwen3.5-27B", "Qwen3.5-35B-A3B"]],
    ],
  ],
  [
    "generations",
    "generations",
    [
      ["Qwen, about 30B", ["Qwen2.5-32B", "Qwen3-32B", "Qwen3.5-27B"]],
      ["Qwen, about 8B", ["Qwen2.5-7B", "Qwen3-8B", "Qwen3.5-9B"]],
      ["Gemma, 27B", ["gemma-2-27b", "gemma-3-27b-it"]],
    ],
  ],
  [
    "training",
    "training stages",
    [["Ling-mini, by tokens seen", ["Ling-mini-5T", "Ling-mini-10T", "Ling-mini-15T", "Ling-mini-20T"]]],
  ],
  [
    "instruct",
    "base to instruct",
    [
      ["1.5B", ["Qwen2.5-1.5B", "Qwen2.5-1.5B-Instruct"]],
      ["7B", ["Qwen2.5-7B", "Qwen2.5-7B-Instruct"]],
      ["32B", ["Qwen2.5-32B", "Qwen2.5-32B-Instruct"]],
    ],
  ],
  [
    "vision",
    "text to vision-language",
    [
      ["7B", ["Qwen2.5-7B-Instruct", "Qwen2.5-VL-7B"]],
      ["32B", ["Qwen2.5-32B-Instruct", "Qwen2.5-VL-32B"]],
    ],
  ],
];
const PAIR_VALUES = [
  ["M", "M"],
  ["ratio", "largest ratio, residual"],
  ["passed", "tokens that pass the Sun test"],
];

explorer("pairs", "Pairs and sequences", (self) => {
  const own = () => (OWN.length > 1 ? [["own", "your runs, as given"]] : []);
  const which = self.select("which", "Compare", () => [
    ...own(),
    ...SEQUENCES.map(([key, text]) => [key, text]),
    ["picked", "a sequence of your own"],
  ]);
  const field = self.select("y", "Value", () => PAIR_VALUES);
  const picked = () =>
    link
      .get("pairs.picked", "")
      .split(",")
      .filter(Boolean)
      .map((i) => CHECKPOINTS[i])
      .filter(Boolean);
  const pick = (list) => {
    link.set("pairs.picked", list.map((c) => CHECKPOINTS.indexOf(c)).join(","), "");
    self.redraw();
  };

  return (body) => {
    const name = (c) => CHECKPOINTS.find((other) => !other.own && other.name === c);
    const chosen = SEQUENCES.find(([key]) => key === which());
    let sequences = chosen
      ? chosen[2].map(([title, names]) => ({ title, steps: names.map(name).filter(Boolean) }))
      : [];
    if (which() === "own") sequences = [{ title: "Your runs", steps: OWN.filter((c) => shownRuns().includes(c.run)) }];
    if (which() === "picked") {
      body.append(picker(picked(), pick));
      sequences = [{ title: "Your sequence", steps: picked() }];
    }
    const [key, text] = PAIR_VALUES.find(([f]) => f === field());
    sequences = sequences
      .map((s) => ({ ...s, steps: s.steps.filter((c) => c[key] !== null) }))
      .filter((s) => s.steps.length > 1);
    if (!sequences.length)
      return which() === "picked"
        ? "Pick two or more runs or checkpoints, in the order to compare them."
        : "There is nothing to compare: two values are needed.";
    const grid = el("div", { className: "three" }),
      boxes = sequences.map(() => el("div"));
    body.append(grid);
    grid.append(...boxes);
    const y = decades([1, ...sequences.flatMap((s) => s.steps.map((c) => c[key]))]);
    const low = sequences
      .flatMap((s) => s.steps.map((c) => c[key]))
      .filter((v) => v > 0)
      .reduce((a, b) => Math.min(a, b), Infinity);
    if (key !== "passed" && Number.isFinite(low)) y.min = 10 ** Math.floor(Math.log10(low));
    if (y.max <= y.min) y.max = y.min * 10;
    sequences.forEach((s, i) => steps(boxes[i], s, key, text, y));
    body.append(
      el(
        "p",
        { className: "small soft" },
        "One value each, of one run or checkpoint: a ratio says what differs, not why. " +
          (sequences.some((s) => s.steps.some((c) => !c.own)) ? "Published figures: arXiv 2605.15572." : ""),
      ),
    );
    const known = sequences.filter((s) => s.steps[0][key] > 0);
    const up = known.filter((s) => s.steps[s.steps.length - 1][key] > s.steps[0][key]).length;
    return (
      `${text} from the first to the last: ` +
      sequences.map((s) => `${s.title} ${ratio(s.steps[0][key], s.steps[s.steps.length - 1][key])}`).join("; ") +
      (known.length > 1 ? `. It rises in ${up} of ${known.length}.` : ".")
    );
  };
});

function ratio(from, to) {
  return from > 0 ? factor(to / from) : to > 0 ? "from 0" : "0 to 0";
}

function steps(body, { title, steps: found }, key, text, y) {
  body.append(el("h3", {}, title));
  const last = found.length - 1;
  const shared = found
    .map((c) => c.name)
    .reduce((a, b) => {
      let i = 0;
      while (i < a.length && a[i] === b[i]) i++;
      return a.slice(0, i);
    });
  const cut = shared.lastIndexOf("-") + 1,
    most = Math.max(6, Math.floor(46 / found.length));
  const label = (c) => {
    const short = c.name.slice(cut) || c.name;
    return short.length > most ? short.slice(0, most - 1) + "…" : short;
  };
  const plot = frame(body, {
    title: `${text}: ${title}`,
    height: 230,
    left: 76,
    right: 30,
    top: 22,
    x: { min: -0.15, max: last + 0.15, ticks: found.map((c, i) => [i, label(c)]) },
    y,
  });
  const at = found.map((c, i) => [plot.x(i), plot.y(c[key])]);
  plot.svg.append(node("path", { d: path(at), class: "c7", stroke: "currentColor", fill: "none", "stroke-width": 2 }));
  found.forEach((c, i) => {
    const [x, py] = at[i];
    plot.svg.append(
      node("circle", { cx: x, cy: py, r: 5, class: `c${FAMILIES.indexOf(c.family) % 8}`, fill: "currentColor" }),
      node(
        "text",
        { x, y: py - 10, "text-anchor": i === 0 ? "start" : i === last ? "end" : "middle", class: "halo" },
        number(c[key]),
      ),
    );
    if (i) {
      const middle = (at[i - 1][1] + py) / 2;
      plot.svg.append(
        node(
          "text",
          { x: (at[i - 1][0] + x) / 2, y: middle + 20, "text-anchor": "middle", "font-weight": 650, class: "halo" },
          ratio(found[i - 1][key], c[key]),
        ),
      );
    }
  });
  addMarks(
    plot,
    found.map((c, i) => ({
      x: at[i][0],
      y: at[i][1],
      series: 0,
      title: c.name,
      rows: [
        ...(i
          ? [
              [`over ${found[i - 1].name}`, ratio(found[i - 1][key], c[key])],
              [`over ${found[0].name}`, ratio(found[0][key], c[key])],
            ]
          : []),
        ...checkpointRows(c),
      ],
    })),
  );
}

// Adds to the end of the sequence; a click on an entry takes it out.
function picker(chosen, pick) {
  const box = el("div", { className: "controls" }),
    list = el("select", { name: "pairs.add" });
  list.append(
    el("option", { value: "", textContent: "choose…" }),
    ...CHECKPOINTS.map((c, i) => el("option", { value: i, textContent: c.name + (c.own ? " (yours)" : "") })),
  );
  list.addEventListener("change", () => list.value !== "" && pick([...chosen, CHECKPOINTS[list.value]]));
  const chips = chosen.map((c, i) => {
    const chip = el(
      "button",
      { type: "button", className: `chip c${FAMILIES.indexOf(c.family) % 8}`, title: "Take out" },
      el("span", {}, c.name),
    );
    chip.addEventListener("click", () => pick(chosen.filter((_, j) => j !== i)));
    return chip;
  });
  box.append(el("label", { className: "control" }, "Add", list), el("div", { className: "chips" }, ...chips));
  return box;
}
