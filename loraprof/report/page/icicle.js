// Where the step went, nested: phase, role, module (layers folded), kernel; idle time by cause. Click zooms.
const LAYER = /(^|\.)(\d+)(?=\.|$)/;
const fold = path => path.replace(LAYER, "$1*");
const grow = (node, name, ns, events, tone) => {
  const child = node.children.get(name) ?? { name, ns: 0, events: 0, tone, children: new Map(), parent: node };
  node.children.set(name, child);
  child.ns += ns; child.events += events;
  return child;
};
function treeOf(data) {
  const { scene } = data, root = { name: scene.step, ns: 0, events: 0, tone: "rest", children: new Map(), parent: null };
  const layers = new Map();
  for (const cell of scene.cells) {
    const found = cell.module.match(LAYER);
    if (found) layers.set(fold(cell.module), (layers.get(fold(cell.module)) ?? new Set()).add(Number(found[2])));
  }
  const folded = path => {
    const numbers = layers.get(fold(path));
    if (!numbers || numbers.size < 2) return path;
    return fold(path).replace("*", `[${Math.min(...numbers)}-${Math.max(...numbers)}]`);
  };
  for (const c of scene.cells) {
    const tone = data.palette[c.busy ? c.role : `idle:${c.name}`] ?? "rest";
    root.ns += c.ns; root.events += c.events;
    const path = c.busy ? [c.phase, c.role, folded(c.module || "no module"), c.name] : ["idle", c.name, `before ${c.role}`, folded(c.module || "no module")];
    let node = root;
    path.forEach((name, i) => { node = grow(node, name, c.ns, c.events, i ? tone : c.busy ? "rest" : tone); });
    if (c.busy && folded(c.module) !== c.module) grow(node, c.module, c.ns, c.events, tone);
  }
  return root;
}
function icicle(data) {
  const root = treeOf(data), host = section("icicle");
  const crumbs = el("nav", { class: "crumbs", "aria-label": "zoom" }), chart = el("div", { class: "icicle" });
  const find = el("input", { type: "search", placeholder: "find a module or kernel", "aria-label": "find in the chart" });
  const by = el("select", { "aria-label": "colour" }, ...[["role", "colour: role"], ["roof", "colour: share of the roof"]].map(([value, text]) => el("option", { value }, text)));
  const roofs = new Map();
  for (const k of data.kernels) {
    const old = roofs.get(k.name) ?? [0, 0];
    if (k.roof_ns !== null) roofs.set(k.name, [old[0] + k.roof_ns, old[1] + k.total_ns]);
  }
  const trail = node => node.parent ? [...trail(node.parent), node] : [node];
  const row = (node, tall, depth, from, to, wanted) => {
    let x = from;
    for (const child of [...node.children.values()].sort((a, b) => b.ns - a.ns)) {
      const wide = (to - from) * child.ns / node.ns;
      if (wide < 0.0012) { x += wide; continue; }
      const box = el("button", { class: `t-${child.tone}`, title: `${cut(child.name, 300)}\n${time(child.ns)}, ${percent(child.ns, root.ns)} of the step, ${child.events.toLocaleString("en")} records`, onclick: () => show(child) }, cut(short(child.name).split(".").slice(-2).join("."), 200));
      box.style.left = `${100 * x}%`; box.style.width = `${100 * wide}%`; box.style.top = `${depth * 25}px`;
      const roof = roofs.get(child.name);
      if (by.value === "roof") box.style.setProperty("--tone", roof ? `color-mix(in srgb, var(--good) ${Math.min(100, 100 * roof[0] / roof[1])}%, var(--bad))` : "var(--unknown)");
      if (wanted && !`${child.name} ${short(child.name)}`.toLowerCase().includes(wanted)) box.classList.add("faint");
      chart.append(box);
      if (child.children.size && depth < 4) row(child, tall, depth + 1, x, x + wide, wanted);
      x += wide;
    }
  };
  let shown = root;
  const show = node => {
    shown = node;
    chart.replaceChildren(); crumbs.replaceChildren();
    for (const step of trail(node)) crumbs.append(el("button", { onclick: () => show(step) }, cut(step.name, 80)), el("span", { "aria-hidden": "true" }, " › "));
    crumbs.append(el("b", {}, `${time(node.ns)}, ${percent(node.ns, root.ns)} of ${time(root.ns)}`));
    row(node, 25, 0, 0, 1, find.value.trim().toLowerCase());
    place.write("icicle", trail(node).slice(1).map(n => encodeURIComponent(n.name)).join("/"));
  };
  find.addEventListener("input", () => show(shown)); by.addEventListener("change", () => show(shown));
  host.append(el("p", { class: "tools" }, find, by, el("span", { class: "dim" }, "click: zoom in · path: zoom out")), crumbs, chart);
  let at = root;
  for (const name of (place.read("icicle") ?? "").split("/").filter(Boolean)) at = at.children.get(decodeURIComponent(name)) ?? at;
  show(at);
}
