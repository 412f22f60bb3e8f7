// What every part of the page shares: the data, text that stays text, numbers with units, colours.
const packed = document.getElementById("data");
const el = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
};
const svg = (tag, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const unpack = async () => {
  const bytes = Uint8Array.from(atob(packed.textContent.trim()), c => c.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(plain).text());
};
const UNITS = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
const scaled = (value, steps) => {
  const [size, unit] = steps.find(([size]) => Math.abs(value) >= size) ?? steps.at(-1);
  const shown = value / size;
  return `${shown.toLocaleString("en", { maximumSignificantDigits: Math.abs(shown) < 1000 ? 3 : 4 })} ${unit}`;
};
const time = ns => scaled(ns, UNITS);
const rate = (value, unit) => value === null ? "n/a" : scaled(value, [[1e12, `T${unit}`], [1e9, `G${unit}`], [1e6, `M${unit}`], [1, unit]]);
const percent = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)} %` : "n/a";
const colours = () => {
  const style = getComputedStyle(document.documentElement), known = {};
  return key => known[key] ??= style.getPropertyValue(`--${key}`).trim() || "#888";
};
const cut = (text, most = 2000) => text.length > most ? `${text.slice(0, most)}…` : text;
// What a kernel does, in a few words; any other name as it is.
let labels = new Map();
const short = name => labels.get(name) ?? name;
// The end of a module's path says which it is.
const ending = path => path.length > 34 ? `…${path.slice(-33)}` : path;
const section = id => document.querySelector(`#${id} .mount`);
// The place in the page, in the address: #icicle=phase/role&what-if=3. A frame of a notebook has none.
const places = new URLSearchParams(location.hash.slice(1));
const place = {
  read: key => places.get(key),
  write(key, value) {
    if (value) places.set(key, value); else places.delete(key);
    if (location.protocol !== "about:") history.replaceState(null, "", `#${places}`);
  },
};
