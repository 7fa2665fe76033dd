// The error of a symmetric per-tensor quantizer from counted magnitudes, as maxact_kernels/quantization.py computes it.

// The non-negative values of a format, ascending, divided by the largest, and the middles between them.
const gridOf = (() => {
  const known = new Map();
  const make = (fmt) => {
    const values = [];
    if (fmt.startsWith("int")) {
      for (let i = 0; i < 2 ** (Number(fmt.slice(3)) - 1); i++) values.push(i);
    } else {
      const [mantissa, bias, n] = fmt === "fp8_e4m3" ? [3, 7, 127] : [2, 15, 124];
      for (let i = 0; i < n; i++) {
        const exponent = i >> mantissa,
          fraction = (i % 2 ** mantissa) / 2 ** mantissa;
        values.push(((exponent > 0) + fraction) * 2 ** (Math.max(exponent, 1) - bias));
      }
    }
    const top = values[values.length - 1];
    const levels = Float64Array.from(values, (v) => v / top);
    return { levels, middles: levels.slice(1).map((level, i) => (level + levels[i]) / 2) };
  };
  return (fmt) => known.get(fmt) || known.set(fmt, make(fmt)).get(fmt);
})();

const decibels = (signal, noise) => (!signal ? NaN : noise ? 10 * Math.log10(signal / noise) : Infinity);

// {sqnr, worst, best, clip, zeroed} at a threshold; worst and best are what sqnr cannot leave where a table is merged.
function errorOf(fmt, threshold, table) {
  const { levels, middles } = gridOf(fmt),
    { low, high, n } = table,
    last = middles.length;
  let signal = 0,
    noise = 0,
    total = 0,
    nonzero = 0,
    clipped = 0,
    zeroed = 0,
    j = 0;
  const zero = (levels[1] * threshold) / 2;
  for (let i = 0; i < n.length; i++) {
    const x = (low[i] + high[i]) / 2;
    while (j < last && middles[j] * threshold < x) j++;
    const error = x - levels[j] * threshold;
    signal += n[i] * x * x;
    noise += n[i] * error * error;
    total += n[i];
    if (high[i] > 0) nonzero += n[i];
    if (x > threshold) clipped += n[i];
    if (x > 0 && (x <= zero || threshold === 0)) zeroed += n[i];
  }
  const sqnr = decibels(signal, noise),
    share = (part, whole) => (whole ? part / whole : NaN);
  const [worst, best] = table.exact ? [sqnr, sqnr] : errorBounds(levels, middles, threshold, table.bins);
  return { sqnr, worst, best, clip: share(clipped, total), zeroed: share(zeroed, nonzero) };
}

// Elements of a bin may lie anywhere in it: ends, grid points and middles decide.
function errorBounds(levels, middles, threshold, { low, high, n }) {
  const last = middles.length;
  let [a, b, c, d, signalLow, signalHigh, least, most] = [0, 0, 0, 0, 0, 0, 0, 0];
  for (let i = 0; i < n.length; i++) {
    while (a < last && middles[a] * threshold < low[i]) a++; // middles below low
    while (b < last && middles[b] * threshold < high[i]) b++; // middles below high
    while (c <= last && levels[c] * threshold < low[i]) c++; // levels below low
    d = b;
    while (d < last && middles[d] * threshold <= high[i]) d++;
    const atLow = Math.abs(low[i] - levels[a] * threshold),
      atHigh = Math.abs(high[i] - levels[b] * threshold);
    const touches = c <= last && levels[c] * threshold <= high[i];
    const inside = a < d ? ((levels[d] - levels[d - 1]) * threshold) / 2 : 0;
    signalLow += n[i] * low[i] ** 2;
    signalHigh += n[i] * high[i] ** 2;
    least += touches ? 0 : n[i] * Math.min(atLow, atHigh) ** 2;
    most += n[i] * Math.max(atLow, atHigh, inside) ** 2;
  }
  return [decibels(signalLow, most), decibels(signalHigh, least)];
}

// The counted magnitude with the smallest squared error; of equal ones the largest. With running sums a candidate costs
// one look at each level, since q is constant between two middles and the edges only move up.
function bestThreshold(fmt, table) {
  const { levels, middles } = gridOf(fmt),
    { low, high, n, bins } = table,
    size = n.length;
  if (!size || !(high[size - 1] > 0)) return 0;
  const x = low.map((v, i) => (v + high[i]) / 2),
    unit = x[size - 1];
  const candidates = bins.low.map((v, i) => (v + bins.high[i]) / 2).filter((v) => v > 0);
  const count = new Float64Array(size + 1),
    first = new Float64Array(size + 1);
  let square = 0;
  for (let i = 0; i < size; i++) {
    count[i + 1] = count[i] + n[i];
    first[i + 1] = first[i] + (n[i] * x[i]) / unit;
    square += n[i] * (x[i] / unit) ** 2;
  }
  const edges = new Int32Array(middles.length);
  const errors = candidates.map((candidate) => {
    let error = square,
      from = 0;
    for (let j = 0; j < levels.length; j++) {
      let to = size;
      if (j < middles.length) {
        to = edges[j];
        const middle = middles[j] * candidate;
        while (to < size && x[to] <= middle) to++;
        edges[j] = to;
      }
      const q = (levels[j] * candidate) / unit;
      error += q * (q * (count[to] - count[from]) - 2 * (first[to] - first[from]));
      from = to;
    }
    return error;
  });
  // Running sums cancel: what they cannot tell apart is decided by the sum itself.
  const least = errors.reduce((a, b) => Math.min(a, b)),
    centred = { low: x, high: x, n, exact: true };
  let best = 0,
    highest = -Infinity;
  candidates.forEach((candidate, i) => {
    if (errors[i] > least + 1e-9 * square) return;
    const { sqnr } = errorOf(fmt, candidate, centred);
    if (sqnr >= highest - 1e-12) [best, highest] = [candidate, Math.max(highest, sqnr)];
  });
  return best;
}

// The threshold that a calibration on a site gives. Null where its table was left out of the run.
function thresholdOf(fmt, mode, share, absolute, site) {
  if (mode === "max") return site.absmax;
  if (mode === "q0.999") return site["q0.999"];
  if (mode === "share") return site.absmax * share;
  if (mode === "absolute") return absolute;
  const table = magnitudes(site);
  return table && kept(`mse ${fmt} ${site.run.index} ${site.index}`, () => bestThreshold(fmt, table));
}
