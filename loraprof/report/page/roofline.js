// Every group of kernels against the device's roofs: FLOP per byte across, FLOP/s up, both logarithmic; a dot's area is
// its time. A brush (drag) filters the table below.
function roofline(data, filter) {
  const host = section("roofline"), { flops_per_s: flops, bytes_per_s: bytes } = data.roofs;
  const dots = data.dots;
  if (!dots.length) { host.append(el("p", { class: "dim" }, "no kernel of known FLOPs and bytes: record shapes to see this (loraprof profile does)")); return; }
  const W = 900, H = 380, L = 62, B = 34, log = Math.log10;
  const xs = dots.map(d => log(d.intensity)), ys = dots.map(d => log(d.flops_per_s));
  const x0 = Math.floor(Math.min(...xs, 0) - 0.2), x1 = Math.ceil(Math.max(...xs, 2) + 0.2);
  const y0 = Math.floor(Math.min(...ys) - 0.2), y1 = Math.ceil(Math.max(...ys, ...Object.values(flops).map(log)) + 0.1);
  const x = v => L + (v - x0) / (x1 - x0) * (W - L - 10), y = v => H - B - (v - y0) / (y1 - y0) * (H - B - 10);
  const chart = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "roofline", role: "img", "aria-label": "roofline of the step's kernels" });
  for (let e = x0; e <= x1; e++) chart.append(svg("line", { x1: x(e), x2: x(e), y1: 10, y2: H - B, class: "grid" }), svg("text", { x: x(e), y: H - B + 16, "text-anchor": "middle" }, `${10 ** e}`));
  for (let e = y0; e <= y1; e++) chart.append(svg("line", { x1: L, x2: W - 10, y1: y(e), y2: y(e), class: "grid" }), svg("text", { x: L - 6, y: y(e) + 4, "text-anchor": "end" }, rate(10 ** e, "")));
  chart.append(svg("text", { x: W - 12, y: H - 4, "text-anchor": "end" }, "FLOP per byte"), svg("text", { x: L + 6, y: 20 }, "FLOP/s"));
  for (const [dtype, top] of Object.entries(flops)) {
    const ridge = bytes ? log(top / bytes) : x0;
    const points = [bytes ? [x(x0), y(log(bytes) + x0)] : null, [x(Math.max(ridge, x0)), y(log(top))], [x(x1), y(log(top))]].filter(Boolean);
    chart.append(svg("polyline", { points: points.map(p => p.map(v => v.toFixed(1)).join()).join(" "), class: "roof" }), svg("text", { x: x(x1) - 4, y: y(log(top)) + 16, "text-anchor": "end" }, `${dtype}: ${rate(top, "FLOP/s")}`));
  }
  const most = Math.max(...dots.map(d => d.ns));
  for (const d of [...dots].sort((a, b) => b.ns - a.ns)) {
    const dot = svg("circle", { cx: x(log(d.intensity)), cy: y(log(d.flops_per_s)), r: Math.max(2, 22 * Math.sqrt(d.ns / most)), class: `t-${data.palette[d.role] ?? "rest"}` });
    dot.append(svg("title", {}, `${cut(short(d.name), 300)}\n${d.role}, ${time(d.ns)} in ${d.count} calls\n${rate(d.flops_per_s, "FLOP/s")}, ${d.intensity.toPrecision(3)} FLOP/B${d.roof_ns === null ? "" : `\n${percent(d.roof_ns, d.ns)} of the roof`}`));
    chart.append(dot);
  }
  const brush = svg("rect", { class: "brush", x: 0, y: 0, width: 0, height: 0 });
  chart.append(brush);
  let from = null;
  const point = event => { const box = chart.getBoundingClientRect(); return [(event.clientX - box.left) / box.width * W, (event.clientY - box.top) / box.height * H]; };
  chart.addEventListener("pointerdown", event => { from = point(event); });
  chart.addEventListener("pointermove", event => {
    if (!from) return;
    const to = point(event);
    for (const [key, value] of Object.entries({ x: Math.min(from[0], to[0]), y: Math.min(from[1], to[1]), width: Math.abs(to[0] - from[0]), height: Math.abs(to[1] - from[1]) })) brush.setAttribute(key, value);
  });
  chart.addEventListener("pointerup", event => {
    if (!from) return;
    const first = from, to = point(event), inside = (v, i) => v >= Math.min(first[i], to[i]) && v <= Math.max(first[i], to[i]);
    const small = Math.abs(to[0] - first[0]) < 4;
    from = null;
    if (small) brush.setAttribute("width", 0);
    filter(small ? null : new Set(dots.filter(d => inside(x(log(d.intensity)), 0) && inside(y(log(d.flops_per_s)), 1)).map(d => d.name)));
  });
  host.append(el("div", { class: "scroll" }, chart), el("p", { class: "dim" }, "drag: filter the table of kernels · click: all again"));
}
