// All kernels, modules and idle gaps. Only the rows in sight are in the page; folded by layer where asked for.
const LINE = 26;
const valueOf = (column, i, row) => column.of ? column.of(row) : row[i];
function virtualTable(id, columns, all, name) {
  const host = section(id), body = el("tbody"), foot = el("p", { class: "dim" });
  if (!all.length) { host.append(el("p", { class: "dim" }, `no ${name} are known of this input`)); return () => {}; }
  const find = el("input", { type: "search", placeholder: "filter", "aria-label": `filter ${name}` });
  const folding = el("input", { type: "checkbox", checked: true });
  let order = columns.findIndex(c => c.number), down = true, rows = all, only = null;
  const heads = columns.map((c, i) => el("th", { scope: "col", class: c.number ? "n" : "" }, el("button", { onclick: () => { down = order === i ? !down : true; order = i; update(); } }, c.title)));
  const box = el("div", { class: "scroll virtual", tabindex: 0, role: "region", "aria-label": name }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body));
  const foldRows = list => {
    const sums = new Map();
    for (const row of list) {
      const folded = columns.map((c, i) => c.fold ? fold(String(row[i] ?? "")) : row[i]);
      const key = JSON.stringify(folded.filter((_, i) => !columns[i].sum && !columns[i].number));
      const old = sums.get(key);
      if (!old) sums.set(key, folded); else columns.forEach((c, i) => { if (c.sum) old[i] = old[i] === null || row[i] === null ? null : old[i] + row[i]; else if (c.number) old[i] = null; });
    }
    return [...sums.values()];
  };
  const paint = () => {
    const first = Math.max(0, Math.floor(box.scrollTop / LINE) - 5), last = Math.min(rows.length, first + Math.ceil(box.clientHeight / LINE) + 12);
    const pad = count => el("tr", { class: "pad" }, el("td", { colspan: columns.length }));
    const above = pad(), below = pad();
    above.firstChild.style.height = `${first * LINE}px`; below.firstChild.style.height = `${(rows.length - last) * LINE}px`;
    body.replaceChildren(above, ...rows.slice(first, last).map(row => el("tr", {}, ...columns.map((c, i) => {
      const value = valueOf(c, i, row), text = value === null || value === undefined ? "n/a" : c.show ? c.show(value) : String(value);
      return el("td", { class: c.number ? "n" : "cut", title: c.number ? undefined : cut(String(row[i] ?? ""), 300) }, cut(text));
    }))), below);
  };
  const update = () => {
    const wanted = find.value.trim().toLowerCase();
    const kept = all.filter(row => (!only || only.has(row[0])) && (!wanted || row.some(v => typeof v === "string" && `${v} ${short(v)}`.toLowerCase().includes(wanted))));
    rows = folding.checked && columns.some(c => c.fold) ? foldRows(kept) : kept;
    const c = columns[order];
    rows = [...rows].sort((a, b) => (down ? -1 : 1) * (c.number ? (valueOf(c, order, a) ?? -1) - (valueOf(c, order, b) ?? -1) : String(a[order]).localeCompare(String(b[order]), "en", { numeric: true })));
    heads.forEach((h, i) => i === order ? h.setAttribute("aria-sort", down ? "descending" : "ascending") : h.removeAttribute("aria-sort"));
    foot.textContent = `${rows.length.toLocaleString("en")} rows of ${all.length.toLocaleString("en")} ${name}`;
    box.scrollTop = 0;
    paint();
  };
  const csv = () => {
    const quote = v => /[",\n]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v;
    const lines = [columns.map(c => c.title), ...rows.map(row => columns.map((c, i) => String(valueOf(c, i, row) ?? "")))];
    const link = el("a", { download: `${id}.csv`, href: URL.createObjectURL(new Blob([lines.map(l => l.map(quote).join()).join("\n")], { type: "text/csv" })) });
    link.click(); URL.revokeObjectURL(link.href);
  };
  find.addEventListener("input", update); folding.addEventListener("change", update); box.addEventListener("scroll", paint);
  host.append(el("p", { class: "tools" }, find, ...columns.some(c => c.fold) ? [el("label", {}, folding, " fold layers")] : [], el("button", { onclick: csv }, "CSV")), box, foot);
  update();
  new ResizeObserver(paint).observe(box);
  return names => { only = names; update(); };
}
const NS = { number: true, sum: true, show: time }, COUNT = { number: true, sum: true, show: v => v.toLocaleString("en") };
function tables(data) {
  const share = { number: true, sum: true, of: row => row[6] === null || !row[4] ? null : row[6] / row[4], show: v => `${(100 * v).toFixed(0)} %` };
  const filter = virtualTable("all-kernels",
    [{ title: "kernel", show: short }, { title: "role" }, { title: "phase" }, { title: "module", fold: true, show: ending }, { title: "time", ...NS }, { title: "count", ...COUNT }, { title: "of the roof", ...share }],
    data.kernels.map(k => [k.name, k.role, k.phase, k.module ?? "", k.total_ns, k.count, k.roof_ns]), "kernels");
  virtualTable("all-modules",
    [{ title: "module", fold: true, show: ending }, { title: "role" }, { title: "busy", ...NS }, { title: "idle", ...NS }, { title: "launches", ...COUNT }],
    data.modules.map(m => [m.path, m.role, m.busy_ns, m.idle_ns, m.launches]), "modules");
  return filter;
}
function gaps(data) {
  const idle = data.scene.cells.filter(c => !c.busy);
  virtualTable("all-gaps",
    [{ title: "cause" }, { title: "before" }, { title: "phase" }, { title: "module", fold: true, show: ending }, { title: "idle", ...NS }, { title: "gaps", ...COUNT }],
    idle.map(c => [c.name, c.role, c.phase, c.module, c.ns, c.events]), "groups of idle gaps");
}
