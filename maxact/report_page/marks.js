// Exact values of what is under the pointer, or under the keyboard: a plot is one tab stop, arrow keys go from mark to mark.
const tip = el("div", { className: "tip", hidden: true });
tip.setAttribute("role", "status");

let told = null; // {svg, mark} that the tip is about

function hideTip() {
  told = null;
  tip.hidden = true;
}

function showTip(svg, mark) {
  const rows = (typeof mark.rows === "function" ? mark.rows() : mark.rows) || [];
  tip.replaceChildren(
    el("b", {}, mark.title),
    ...rows.map(([name, value]) => el("div", {}, el("span", {}, name), el("span", {}, value))),
  );
  told = { svg, mark };
  tip.hidden = false;
  placeTip();
}

function placeTip() {
  const plot = told.svg.getBoundingClientRect(),
    box = tip.getBoundingClientRect();
  const x = plot.left + told.mark.x,
    y = plot.top + told.mark.y;
  tip.style.left = `${Math.min(Math.max(6, x + 14), innerWidth - box.width - 6)}px`;
  tip.style.top = `${y - box.height - 12 > 4 ? y - box.height - 12 : y + 18}px`;
}

// A page that scrolls takes the pointer away from its mark, but not the keyboard.
addEventListener(
  "scroll",
  () => {
    if (told && document.activeElement === told.svg) placeTip();
    else hideTip();
  },
  { passive: true },
);

// marks: [{x, y, series, title, rows}], in reading order. along: "y" takes the nearest row, else the nearest point.
function addMarks(plot, marks, { along, pick, reach = 48 } = {}) {
  const { svg } = plot;
  if (!marks.length) return;
  const ring = node("circle", { r: 7, class: "ring", visibility: "hidden" });
  svg.append(ring);
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("aria-roledescription", "chart; arrow keys read its values");
  let current = -1;

  const leave = () => {
    ring.setAttribute("visibility", "hidden");
    hideTip();
  };
  const show = (i) => {
    current = i;
    const mark = marks[i];
    ring.setAttribute("cx", mark.x);
    ring.setAttribute("cy", mark.y);
    ring.setAttribute("visibility", "visible");
    showTip(svg, mark);
  };
  const nearest = (x, y, allowed = () => true) => {
    let best = -1,
      least = Infinity;
    marks.forEach((mark, i) => {
      const distance = along === "y" ? Math.abs(mark.y - y) : Math.hypot(mark.x - x, mark.y - y);
      if (distance < least && allowed(mark)) [best, least] = [i, distance];
    });
    return [best, least];
  };
  const under = (event) => {
    const box = svg.getBoundingClientRect();
    const [i, distance] = nearest(event.clientX - box.left, event.clientY - box.top);
    return distance <= reach ? i : -1;
  };
  const hover = (event) => {
    const i = under(event);
    if (i >= 0) show(i);
    else leave();
  };
  svg.addEventListener("pointermove", hover);
  svg.addEventListener("pointerdown", hover);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("focus", () => {
    if (svg.matches(":focus-visible")) show(current < 0 ? 0 : current);
  });
  svg.addEventListener("click", (event) => {
    const i = under(event);
    if (i >= 0 && pick) pick(marks[i]);
  });
  svg.addEventListener("keydown", (event) => {
    const here = marks[current] || marks[0];
    const step = (by) => {
      for (let i = current + by; i >= 0 && i < marks.length; i += by) if (marks[i].series === here.series) return i;
      return current;
    };
    const across = (by) => {
      const names = [...new Set(marks.map((mark) => mark.series))];
      const name = names[names.indexOf(here.series) + by];
      return name === undefined ? current : nearest(here.x, here.y, (mark) => mark.series === name)[0];
    };
    const last = marks.length - 1;
    const moves = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), Home: () => 0, End: () => last };
    const rows = along === "y" ? [() => step(-1), () => step(1)] : [() => across(-1), () => across(1)];
    [moves.ArrowUp, moves.ArrowDown] = rows;
    if (event.key === "Escape") leave();
    else if (event.key === "Enter" && pick && current >= 0) pick(marks[current]);
    else if (moves[event.key]) show(Math.max(0, moves[event.key]()));
    else return;
    event.preventDefault();
  });
}
