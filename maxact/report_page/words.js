// Numbers and lists for people: 24,929 · 3.062 · 0.000122.
"use strict";

function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-6)) return value.toExponential(digits - 1);
  if (Number.isInteger(value) || size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}

// All digits of a float32.
function exact(value) {
  if (typeof value !== "number" || !Number.isFinite(value) || Number.isInteger(value)) return number(value);
  return Math.abs(value) < 1e-4 ? number(value, 9) : value.toLocaleString("en-US", { maximumSignificantDigits: 9 });
}

function decibel(value) {
  return value === null || Number.isNaN(value)
    ? "–"
    : Number.isFinite(value)
      ? value.toFixed(2) + " dB"
      : number(value);
}

function percent(share) {
  if (share === null || Number.isNaN(share)) return "–";
  if (share === 0) return "0 %";
  return number(share * 100, share > 0.999 && share < 1 ? 7 : 3) + " %";
}

function factor(value) {
  return number(value, 3) + "×";
}

function plural(n, noun) {
  return `${number(n)} ${noun}${n === 1 ? "" : "s"}`;
}

// "a, b and c"; of more than `most` items the first ones and how many more there are.
function listed(items, most = 4) {
  if (items.length > most) return `${items.slice(0, most).join(", ")} and ${items.length - most} more`;
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}`;
}

// 10⁻⁴ where digits would be many.
function power(exponent) {
  if (exponent >= -3 && exponent <= 6) return number(10 ** exponent);
  return "10" + String(exponent).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻");
}
