// The state of every control, kept in the link: #at=sun&sun.abs=300. What is as it was at first is not in it.
const link = { values: new Map(), timer: 0 };

link.read = () => {
  link.values = new Map(new URLSearchParams(location.hash.slice(1)));
};

link.get = (key, fallback) => (link.values.has(key) ? link.values.get(key) : String(fallback));

link.set = (key, value, fallback) => {
  if (String(value) === String(fallback)) link.values.delete(key);
  else link.values.set(key, String(value));
  clearTimeout(link.timer); // browsers refuse to write a link many times a second
  link.timer = setTimeout(link.write, 120);
};

link.write = () => {
  history.replaceState(null, "", "#" + new URLSearchParams([...link.values]));
};

// A set of small integers that are off, as "1,4".
link.off = (key) => new Set(link.get(key, "").split(",").filter(Boolean).map(Number));

link.toggle = (key, index) => {
  const off = link.off(key);
  if (!off.delete(index)) off.add(index);
  link.set(key, [...off].sort((a, b) => a - b).join(","), "");
};

link.read();
