// HTML and SVG nodes, scales with readable ticks, and the frame of a plot.
function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function node(tag, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) if (attributes[name] !== undefined) element.setAttribute(name, attributes[name]);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Whole decades around the positive finite values; [1, 10] if there is none.
function decades(values) {
  const known = values.filter((v) => v > 0 && Number.isFinite(v)).map(Math.log10);
  if (!known.length) return { log: true, min: 1, max: 10 };
  const low = Math.floor(known.reduce((a, b) => Math.min(a, b)));
  const high = Math.ceil(known.reduce((a, b) => Math.max(a, b)));
  return { log: true, min: 10 ** low, max: 10 ** Math.max(high, low + 1) };
}

// A function from values to pixels, held within from .. to.
function scaleOf({ log, min, max }, from, to) {
  const map = log ? Math.log10 : (v) => v;
  const low = map(min),
    high = map(max);
  const scale = (v) => {
    const share = (map(v) - low) / (high - low);
    return from + (to - from) * Math.min(1, Math.max(0, Number.isNaN(share) ? 0 : share));
  };
  scale.inverse = (pixel) => {
    const value = low + ((pixel - from) / (to - from)) * (high - low);
    return log ? 10 ** value : value;
  };
  return scale;
}

// [value, text] of at most about `most` ticks; text is null where only a short line stands.
function ticksOf({ log, min, max, integer }, most) {
  if (log) {
    const low = Math.round(Math.log10(min)),
      high = Math.round(Math.log10(max));
    const step = Math.max(1, Math.ceil((high - low) / most));
    const ticks = [];
    for (let e = low; e <= high; e++) {
      ticks.push([10 ** e, (e - low) % step === 0 ? power(e) : null]);
      if (step === 1 && e < high) {
        for (let m = 2; m < 10; m++)
          ticks.push([m * 10 ** e, (m === 2 || m === 5) && (high - low) * 3 <= most ? number(m * 10 ** e) : null]);
      }
    }
    return ticks;
  }
  const raw = (max - min) / most,
    unit = 10 ** Math.floor(Math.log10(raw));
  let step = unit * [1, 2, 5, 10].find((m) => m * unit >= raw);
  if (integer) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let i = Math.ceil(min / step); i * step <= max + step * 1e-9; i++) ticks.push([i * step, number(i * step)]);
  return ticks;
}

// A plot with its axes. x and y: {log, min, max, label, ticks}. Returns the svg with the scales and the inner edges.
function frame(body, { title, height = 320, left = 70, right = 18, top = 14, bottom = 46, x, y }) {
  const width = Math.max(280, Math.floor(body.clientWidth || 320));
  const svg = node("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title });
  const edge = { left, right: width - right, top, bottom: height - bottom };
  const at = { x: scaleOf(x, edge.left, edge.right), y: scaleOf(y, edge.bottom, edge.top) };
  const line = (x1, y1, x2, y2, name) => svg.append(node("line", { x1, y1, x2, y2, class: name }));
  for (const [value, text] of x.ticks || ticksOf(x, Math.max(2, Math.floor((edge.right - left) / 72)))) {
    const px = at.x(value);
    line(
      px,
      text === null ? edge.bottom : top,
      px,
      edge.bottom + (text === null ? 3 : 5),
      text === null ? "axis" : "grid",
    );
    if (text === null) continue;
    const over = px + text.length * 3.6 > width; // a label at the edge stays inside
    svg.append(
      node(
        "text",
        { x: over ? width : px, y: edge.bottom + 18, "text-anchor": over ? "end" : "middle", class: "soft" },
        text,
      ),
    );
  }
  for (const [value, text] of y.ticks || ticksOf(y, Math.max(2, Math.floor((edge.bottom - top) / 30)))) {
    const py = at.y(value);
    line(
      text === null ? left - 3 : left - 5,
      py,
      text === null ? left : edge.right,
      py,
      text === null ? "axis" : "grid",
    );
    if (text !== null) svg.append(node("text", { x: left - 9, y: py + 4, "text-anchor": "end", class: "soft" }, text));
  }
  line(left, edge.bottom, edge.right, edge.bottom, "axis");
  if (x.label)
    svg.append(
      node("text", { x: (left + edge.right) / 2, y: height - 8, "text-anchor": "middle", class: "soft" }, x.label),
    );
  if (y.label)
    svg.append(
      node(
        "text",
        { transform: `translate(14 ${(top + edge.bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "soft" },
        y.label,
      ),
    );
  body.append(svg);
  return { svg, x: at.x, y: at.y, edge, width, height };
}

// A path through the points that exist; null makes a gap.
function path(points) {
  let pen = "M",
    d = "";
  for (const point of points) {
    if (point === null) pen = "M";
    else {
      d += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
      pen = "L";
    }
  }
  return d;
}

// A horizontal or vertical limit with its name.
function limit(plot, axis, value, text, { anchor = "start", dx = 5, dy = 12 } = {}) {
  const { edge } = plot,
    p = plot[axis](value);
  if (axis === "x") {
    plot.svg.append(node("line", { x1: p, x2: p, y1: edge.top, y2: edge.bottom, class: "limit" }));
    plot.svg.append(node("text", { x: p + dx, y: edge.top + dy - 14, "text-anchor": anchor, class: "mark" }, text));
  } else {
    plot.svg.append(node("line", { x1: edge.left, x2: edge.right, y1: p, y2: p, class: "limit" }));
    plot.svg.append(node("text", { x: edge.right - 4, y: p - 5, "text-anchor": "end", class: "mark halo" }, text));
  }
}

// Colours of the heat maps, viridis: order survives every colour blindness and both modes.
const HEAT = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map((hex) =>
  [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)),
);

function heat(share) {
  const t = Math.min(1, Math.max(0, share)) * (HEAT.length - 1),
    i = Math.min(HEAT.length - 2, Math.floor(t));
  return `rgb(${HEAT[i].map((c, j) => Math.round(c + (HEAT[i + 1][j] - c) * (t - i))).join(" ")})`;
}
