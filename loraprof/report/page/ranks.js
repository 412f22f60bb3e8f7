// All ranks side by side: bars of their own work above, a line of shades per figure below, from the least to the most of
// its ranks. Where there are more ranks than pixels, a column shows the one with the most own work.
const SHADE = 17, BARS = 70;
function ranks(data) {
  const rows = data.ranks, host = section("all-ranks"), phases = Object.keys(rows[0].phases_ns).filter(phase => rows.some(r => r.phases_ns[phase]));
  const figures = [
    ["own work", r => r.own_ns], ["step", r => r.wall_ns], ["exposed comm", r => r.exposed_comm_ns], ["idle", r => r.idle_ns],
    ...phases.map(phase => [phase, r => r.phases_ns[phase] ?? 0]),
    ...rows.some(r => r.last_arrivals !== null) ? [["came last to collectives", r => r.last_arrivals ?? 0, v => v.toLocaleString("en")]] : [],
  ].map(([title, of, show = time]) => ({ title, of, show, low: Math.min(...rows.map(of)), high: Math.max(...rows.map(of)) }));
  const own = figures[0], tall = BARS + figures.length * (SHADE + 2) + 8;
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `own work of ${rows.length} ranks, ${time(own.low)} to ${time(own.high)}; arrow keys go from rank to rank` });
  const said = el("output", { class: "said" }), by = el("select", { "aria-label": "order of the ranks" }, el("option", { value: "rank" }, "in order of rank"), el("option", { value: "own" }, "most own work first"));
  let order = [], picked = null, colour = colours();
  const room = () => Math.max(canvas.clientWidth - LABELS, 1), columns = () => Math.min(order.length, Math.floor(room()));
  const most = (list, of) => list.reduce((best, r) => of(r) > of(best) ? r : best);
  const column = c => most(order.slice(Math.floor(c * order.length / columns()), Math.max(Math.floor((c + 1) * order.length / columns()), 1)), own.of);
  const draw = () => {
    const ratio = devicePixelRatio || 1, context = canvas.getContext("2d"), count = columns(), wide = room() / count, gap = wide > 6 ? 1 : 0;
    canvas.width = canvas.clientWidth * ratio; canvas.height = tall * ratio;
    context.scale(ratio, ratio); context.font = "11px system-ui, sans-serif"; context.textBaseline = "middle";
    context.fillStyle = colour("dim");
    context.fillText("own work", 2, BARS / 2);
    figures.forEach((f, i) => context.fillText(f.title, 2, BARS + i * (SHADE + 2) + 8 + SHADE / 2, LABELS - 6));
    for (let c = 0; c < count; c++) {
      const r = column(c), x = LABELS + c * wide, lit = r === picked, height = own.high ? BARS * own.of(r) / own.high : 0;
      context.fillStyle = colour(lit ? "bad" : "base");
      context.fillRect(x, BARS - height, Math.max(wide - gap, 0.6), height);
      figures.forEach((f, i) => {
        context.globalAlpha = 0.12 + 0.88 * (f.high > f.low ? (f.of(r) - f.low) / (f.high - f.low) : 0);
        context.fillStyle = colour(lit ? "bad" : "base");
        context.fillRect(x, BARS + i * (SHADE + 2) + 8, Math.max(wide - gap, 0.6), SHADE);
      });
      context.globalAlpha = 1;
    }
  };
  const pick = r => { picked = r; said.textContent = `rank ${r.rank}: ${figures.map(f => `${f.title} ${f.show(f.of(r))}`).join(" · ")}`; draw(); };
  const sort = () => { order = by.value === "own" ? [...rows].sort((a, b) => own.of(b) - own.of(a)) : [...rows].sort((a, b) => a.rank - b.rank); draw(); };
  const at = event => { const c = Math.floor((event.offsetX - LABELS) / room() * columns()); return c >= 0 && c < columns() ? column(c) : null; };
  canvas.addEventListener("pointermove", event => { const r = at(event); if (r && r !== picked) pick(r); });
  canvas.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    pick(order[Math.max(0, Math.min(order.length - 1, (picked ? order.indexOf(picked) : -1) + by))]);
  });
  by.addEventListener("change", sort);
  canvas.style.height = `${tall}px`;
  const repaint = () => { colour = colours(); draw(); };
  matchMedia("(prefers-color-scheme:dark)").addEventListener("change", repaint);
  host.append(el("p", { class: "tools" }, by, el("span", { class: "dim" }, "each line from its least (pale) to its most · point, or use the arrow keys")), canvas, said, el("div", { id: "rank-table" }, el("div", { class: "mount" })));
  virtualTable("rank-table", [{ title: "rank" }, ...figures.map(f => ({ title: f.title, number: true, show: f.show }))], rows.map(r => [String(r.rank), ...figures.map(f => f.of(r))]), "ranks");
  sort();
  pick(most(rows, own.of));
  new ResizeObserver(repaint).observe(canvas);
}
