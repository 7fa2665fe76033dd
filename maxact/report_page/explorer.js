// A section of the page: a heading, one sentence computed from the data, its controls, and what they draw.
const EXPLORERS = [];

// make(self) adds controls and returns draw(body), which fills the body and returns the sentence.
function explorer(id, title, make) {
  const finding = el("p", { className: "finding" }),
    bar = el("div", { className: "controls" }),
    body = el("div");
  finding.setAttribute("aria-live", "polite");
  const section = el("section", { id, tabIndex: -1 }, el("h2", {}, title), finding, bar, body);
  const controls = [];
  const self = { id, title, section, stale: true };
  const add = (control, refresh) => {
    bar.append(control);
    controls.push(refresh);
  };
  const change = (key, value, fallback) => {
    link.set(`${id}.${key}`, value, fallback);
    self.redraw();
  };

  // options: () => [[value, text]]. Gives a function that reads the value, always one of the options.
  self.select = (key, label, options, fallback = () => options()[0][0]) => {
    const input = el("select", { name: `${id}.${key}` });
    const value = () => {
      const now = link.get(`${id}.${key}`, fallback());
      return options().some(([v]) => String(v) === now) ? now : String(fallback());
    };
    input.addEventListener("change", () => change(key, input.value, fallback()));
    const control = el("label", { className: "control" }, label, input);
    add(control, () => {
      const found = options(),
        shown = [...input.options].map((o) => o.value + o.text).join();
      if (shown !== found.map(([v, text]) => String(v) + text).join()) {
        input.replaceChildren(...found.map(([v, text]) => el("option", { value: v, textContent: text })));
      }
      control.hidden = found.length < 2;
      input.value = value();
    });
    return value;
  };

  // stops: () => ascending values. Gives a function that reads the stop nearest to what the link says.
  self.slider = (key, label, stops, fallback, text, visible = () => true) => {
    const input = el("input", { type: "range", name: `${id}.${key}`, min: 0, step: 1 }),
      output = el("output");
    const place = () => {
      const all = stops(),
        wanted = Number(link.get(`${id}.${key}`, fallback()));
      let best = 0;
      all.forEach((stop, i) => {
        if (Math.abs(Math.log(stop / wanted)) < Math.abs(Math.log(all[best] / wanted))) best = i;
      });
      return best;
    };
    const value = () => stops()[place()];
    input.addEventListener("input", () => change(key, stops()[input.value], fallback()));
    const control = el("label", { className: "control" }, el("span", {}, label + " ", output), input);
    add(control, () => {
      control.hidden = !visible();
      input.max = stops().length - 1;
      input.value = place();
      output.textContent = text(value());
      input.setAttribute("aria-valuetext", text(value()));
    });
    return value;
  };

  self.check = (key, label, fallback) => {
    const input = el("input", { type: "checkbox", name: `${id}.${key}` });
    const value = () => link.get(`${id}.${key}`, Number(fallback)) === "1";
    input.addEventListener("change", () => change(key, Number(input.checked), Number(fallback)));
    add(el("label", { className: "control check" }, input, label), () => (input.checked = value()));
    return value;
  };

  // A legend whose entries can be switched off: names: [{text, colour}]. Gives a function: is entry i on?
  self.legend = (key, label, names) => {
    const box = el("div", { className: "chips" });
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", label);
    const buttons = names.map(({ text, colour }, i) => {
      const button = el("button", { type: "button", className: `chip c${colour}` }, el("span", {}, text));
      button.addEventListener("click", () => {
        link.toggle(`${id}.${key}`, i);
        self.redraw();
      });
      return button;
    });
    box.append(...buttons);
    const off = () => link.off(`${id}.${key}`);
    if (names.length > 1) add(box, () => buttons.forEach((b, i) => b.setAttribute("aria-pressed", !off().has(i))));
    return () => {
      const now = off();
      return (i) => !now.has(i);
    };
  };

  const draw = make(self);
  self.redraw = () => {
    self.stale = false;
    hideTip();
    for (const refresh of controls) refresh();
    body.style.minHeight = `${body.offsetHeight}px`;
    body.replaceChildren();
    finding.textContent = draw(body);
    body.style.minHeight = "";
  };
  EXPLORERS.push(self);
  return self;
}

// The runs that are switched on at the head of the page.
function shownRuns() {
  const off = link.off("runs");
  return RUNS.filter((run) => !off.has(run.index));
}

function runOptions(runs = RUNS) {
  return runs.map((run) => [run.index, run.label]);
}

// Draws what is stale, first what is in sight; gives the browser its turn between two.
function drawStale() {
  const inSight = ({ section }) => {
    const box = section.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };
  const next = EXPLORERS.find((e) => e.stale && inSight(e)) || EXPLORERS.find((e) => e.stale);
  if (!next) return document.documentElement.setAttribute("data-drawn", "all");
  next.redraw();
  setTimeout(drawStale);
}

function redrawAll() {
  document.documentElement.removeAttribute("data-drawn");
  for (const e of EXPLORERS) e.stale = true;
  drawStale();
}

// Stops of a slider, four to the octave, from 2^from to 2^to.
function octaves(from, to) {
  return Array.from({ length: (to - from) * 4 + 1 }, (_, i) => 2 ** (from + i / 4));
}
