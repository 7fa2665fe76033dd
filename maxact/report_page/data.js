// The runs of this page: columns of numbers by site, and tables of counts decoded when they are looked at.
const D = JSON.parse(document.getElementById("data").textContent);
const LIMITS = [
  ["448", 448, "FP8 E4M3"],
  ["57,344", 57344, "FP8 E5M2"],
  ["65,504", 65504, "fp16"],
];
const FORMATS = [
  ["int8", "INT-8"],
  ["int4", "INT-4"],
  ["fp8_e4m3", "FP8 E4M3"],
  ["fp8_e5m2", "FP8 E5M2"],
];

// A site has every column under its name; `run` and `index` say where it stands.
function read(run, position) {
  const names = Object.keys(run.columns);
  const n = names.length ? run.columns.name.length : 0;
  const value = (v) => (v === "inf" ? Infinity : v === "-inf" ? -Infinity : v);
  run.index = position;
  run.M = value(run.M);
  run.colour = position % 8;
  run.dash = ["", "7 3", "2 3", "9 3 2 3"][Math.floor(position / 8) % 4];
  run.sites = [];
  for (let i = 0; i < n; i++) {
    const site = { run, index: i };
    for (const name of names) {
      const v = run.columns[name][i];
      site[name] = name === "name" || name === "kind" ? v : value(v);
    }
    site.crest = site.rms > 0 ? site.absmax / site.rms : null;
    run.sites.push(site);
  }
  run.kinds = [...new Set(run.sites.map((site) => site.kind))];
  run.layers = run.sites.reduce((n, site) => (site.layer === null ? n : Math.max(n, site.layer + 1)), 0);
  return run;
}

const RUNS = D.runs.map(read);

const GROUPS = [...new Set(RUNS.flatMap((run) => Object.keys(run.groups)))]; // of tokens, where a run tells some apart
const KINDS = [...new Set(RUNS.flatMap((run) => run.kinds))];
const LAYER_KINDS = KINDS.filter((kind) =>
  RUNS.some((run) => run.sites.some((s) => s.kind === kind && s.layer !== null)),
);

function layersOf(run, kind) {
  return run.sites.filter((site) => site.kind === kind && site.layer !== null);
}

function siteAt(run, kind, layer) {
  return run.sites.find((site) => site.kind === kind && site.layer === layer);
}

// The largest token-to-median ratio and the tokens that pass, over the residual stream as Sun et al. 2024 test it.
function sunOf(run) {
  const hidden = layersOf(run, "hidden");
  return {
    tested: hidden.some((site) => site.n_massive_tokens !== null),
    passed: hidden.reduce((sum, site) => sum + site.n_massive_tokens, 0),
    ratio: Math.max(0, ...hidden.map((site) => site.ratio_max || 0)),
  };
}

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  let at = 0;
  const next = () => {
    let value = 0,
      unit = 1,
      byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * unit;
      unit *= 128;
    } while (byte & 128);
    return value;
  };
  const keys = [],
    counts = [];
  let key = -1,
    count = 0;
  for (let runs = next(); runs > 0; runs--) {
    key += next() + 1;
    for (let left = next(); left > 0; left--) {
      const zigzag = next();
      count += zigzag % 2 ? -(zigzag + 1) / 2 : zigzag / 2;
      keys.push(key++);
      counts.push(count);
    }
    key--;
  }
  return { keys, counts };
}

const KEPT = 500; // decoded tables: all layers of a kind in several runs
const decoded = new Map();

function kept(key, make) {
  let value = decoded.get(key);
  if (value === undefined) {
    value = make();
    if (decoded.size >= KEPT) decoded.delete(decoded.keys().next().value);
    decoded.set(key, value);
  }
  return value;
}

const bits = new DataView(new ArrayBuffer(4));

function float16(pattern) {
  const exponent = pattern >> 10,
    fraction = pattern & 1023;
  return exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24;
}

function float32(pattern) {
  bits.setUint32(0, pattern);
  return bits.getFloat32(0);
}

// Counted magnitudes, ascending: n[i] elements of low[i] to high[i], equal where one value is meant. What this page
// merged is spread evenly over the magnitudes it may have; `bins` is the table as it was sent, which bounds the error.
// Null: not counted.
function magnitudes(site) {
  const texts = site.run.counts[site.index];
  if (!texts) return null;
  return kept(`${site.run.index} ${site.index}`, () => {
    const each = D.merged_bits === null ? 1 : 2 ** ((site.dtype === "float16" ? 10 : 7) - D.merged_bits);
    const merged = texts[0] ? decode(texts[0]) : { keys: [], counts: [] },
      whole = tableOf(site, decode(texts[1]), 1);
    if (!merged.keys.length) return { ...whole, bins: whole, exact: site.dtype !== "float32" };
    const spread = { keys: [], counts: [] };
    merged.keys.forEach((key, i) => {
      for (let j = 0; j < each; j++) {
        spread.keys.push(key * each + j);
        spread.counts.push(merged.counts[i] / each);
      }
    });
    return {
      ...joined(tableOf(site, spread, 1), whole),
      bins: joined(tableOf(site, merged, each), whole),
      exact: false,
    };
  });
}

// The table of keys that each stand for so many patterns.
function tableOf(site, { keys, counts }, each) {
  const float = site.dtype === "float16" ? float16 : (pattern) => float32(pattern * 65536);
  const n = keys.length,
    low = new Float64Array(n),
    high = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const first = keys[i] * each,
      last = first + each - 1;
    low[i] = Math.min(float(first), site.absmax);
    high[i] = Math.min(site.dtype === "float32" ? float32(last * 65536 + 65535) : float(last), site.absmax);
    if (first === 0 && counts[i] === site.n_zero) high[i] = 0;
  }
  return { low, high, n: Float64Array.from(counts) };
}

function joined(a, b) {
  return Object.fromEntries(["low", "high", "n"].map((name) => [name, Float64Array.from([...a[name], ...b[name]])]));
}

// Tokens by m_t and r_t: cells {m, r: [from, to], n}, from m_t = 1 and r_t = 16 on. Null: medians were left out.
function ratioCells(site) {
  if (!site.ratios) return null;
  return kept(`ratios ${site.run.index} ${site.index}`, () => {
    const edge = (key, octave) => 2 ** ((key >> 2) + octave) * (1 + (key & 3) / 4);
    const { keys, counts } = decode(site.ratios);
    return keys.map((key, i) => {
      const row = key >> 7,
        column = key & 127;
      return {
        m: [edge(row, -24), row === 255 ? Infinity : edge(row + 1, -24)],
        r: [edge(column, 0), column === 127 ? Infinity : edge(column + 1, 0)],
        n: counts[i],
      };
    });
  });
}
