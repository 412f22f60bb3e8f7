// The step in time: the partition above, streams, then host threads. Wheel or W A S D zoom and pan, a drag pans, shift
// and a drag measure, a click on an idle slice lights the host record that launched what ended it.
const ROW = { partition: 26, stream: 18, host: 13 };
const LABELS = 128;

const rowsOf = scene => {
  let y = 18;
  return scene.rows.map((row, i) => {
    const previous = scene.rows[i - 1], fresh = !previous || previous.title !== row.title;
    if (fresh) y += 8;
    const start = Float64Array.from(row.ns), ns = Float64Array.from(row.ns);
    let at = 0;
    row.gap.forEach((gap, k) => { start[k] = at + gap; at = start[k] + ns[k]; });
    const made = { ...row, start, ns, y, fresh, height: ROW[row.group] };
    y += made.height + 1;
    return made;
  });
};
const firstEndingAfter = (row, when) => {
  let low = 0, high = row.start.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row.start[middle] + row.ns[middle] > when) high = middle; else low = middle + 1;
  }
  return low;
};
const toneKey = (data, tone) => data.palette[data.scene.tones[tone]] ?? "rest";

function timeline(data) {
  const { scene } = data, rows = rowsOf(scene), host = section("timeline");
  const tall = rows.at(-1).y + rows.at(-1).height + 8;
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `timeline of ${scene.step}, ${time(scene.wall_ns)}` });
  const said = el("output", { class: "said" });
  const view = { from: 0, to: scene.wall_ns, picked: null, blamed: null, ruler: null };
  let colour = colours(), queued = false;
  const width = () => canvas.clientWidth - LABELS;
  const x = ns => LABELS + (ns - view.from) / (view.to - view.from) * width();
  const ns = px => view.from + (px - LABELS) / width() * (view.to - view.from);

  const slices = (context, row, r) => {
    const per = width() / (view.to - view.from);
    let k = firstEndingAfter(row, view.from);
    while (k < row.start.length && row.start[k] < view.to) {
      const left = Math.max(LABELS, x(row.start[k])), right = Math.min(LABELS + width(), x(row.start[k] + row.ns[k]));
      const lit = view.blamed?.[0] === r && view.blamed[1] === k, picked = view.picked?.[0] === r && view.picked[1] === k;
      context.fillStyle = colour(toneKey(data, row.tone[k]));
      context.globalAlpha = row.group === "host" ? (row.depth % 2 ? 0.55 : 0.75) : 1;
      context.fillRect(left, row.y, Math.max(right - left, 0.6), row.height);
      context.globalAlpha = 1;
      if (lit || picked) {
        context.strokeStyle = colour("ink"); context.lineWidth = 2;
        context.strokeRect(left, row.y + 1, Math.max(right - left, 3), row.height - 2);
      }
      if (right - left > 34) {
        context.save();
        context.beginPath(); context.rect(left + 3, row.y, right - left - 6, row.height); context.clip();
        context.fillStyle = colour(row.group === "host" ? "ink" : `on-${toneKey(data, row.tone[k])}`);
        context.fillText(cut(short(scene.names[row.name[k]]), 200), left + 4, row.y + row.height / 2);
        context.restore();
      }
      k = right - left < 0.6 ? Math.max(k + 1, firstEndingAfter(row, row.start[k] + row.ns[k] + 0.6 / per)) : k + 1;
    }
  };
  const axis = context => {
    const rough = (view.to - view.from) / Math.max(2, width() / 110), base = 10 ** Math.floor(Math.log10(rough));
    const step = base * [1, 2, 5, 10].find(factor => base * factor >= rough);
    context.fillStyle = colour("dim");
    for (let t = Math.ceil(view.from / step) * step; t < view.to; t += step) {
      context.globalAlpha = 0.18; context.fillRect(x(t), 14, 1, tall);
      context.globalAlpha = 1; context.fillText(time(t), x(t) + 3, 8);
    }
  };
  const draw = () => {
    queued = false;
    const dense = devicePixelRatio || 1, began = performance.now();
    if (canvas.width !== canvas.clientWidth * dense) { canvas.width = canvas.clientWidth * dense; canvas.height = tall * dense; }
    const context = canvas.getContext("2d");
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.font = "11px system-ui,sans-serif"; context.textBaseline = "middle";
    context.fillStyle = colour("page"); context.fillRect(0, 0, canvas.clientWidth, tall);
    axis(context);
    rows.forEach((row, r) => {
      if (row.fresh) { context.fillStyle = colour("dim"); context.fillText(row.title, 2, row.y + row.height / 2, LABELS - 6); }
      slices(context, row, r);
    });
    if (view.ruler) {
      const [a, b] = view.ruler;
      context.fillStyle = colour("ink"); context.globalAlpha = 0.12;
      context.fillRect(Math.min(x(a), x(b)), 0, Math.abs(x(b) - x(a)), tall); context.globalAlpha = 1;
    }
    canvas.dataset.redrawMs = (performance.now() - began).toFixed(2);
  };
  const redraw = () => { if (!queued) { queued = true; requestAnimationFrame(draw); } };
  const zoom = (factor, around) => {
    const span = Math.min(scene.wall_ns, Math.max(200, (view.to - view.from) * factor));
    const share = (around - view.from) / (view.to - view.from);
    view.from = Math.max(0, Math.min(scene.wall_ns - span, around - share * span));
    view.to = view.from + span;
    redraw();
  };
  const pan = by => {
    const span = view.to - view.from;
    view.from = Math.max(0, Math.min(scene.wall_ns - span, view.from + by)); view.to = view.from + span;
    redraw();
  };
  const at = event => {
    const box = canvas.getBoundingClientRect(), y = event.clientY - box.top, when = ns(event.clientX - box.left);
    const r = rows.findIndex(row => y >= row.y && y < row.y + row.height);
    if (r < 0) return null;
    const k = firstEndingAfter(rows[r], when);
    return k < rows[r].start.length && rows[r].start[k] <= when ? [r, k] : null;
  };
  const tell = ([r, k]) => {
    const row = rows[r], words = [`${row.title}: ${cut(scene.names[row.name[k]], 300)}`, time(row.ns[k]), `at ${time(row.start[k])}`];
    if (row.blame[k]) {
      const [hr, hk] = row.blame[k];
      words.push(`ended by what ${cut(scene.names[rows[hr].name[hk]], 120)} launched on ${rows[hr].title}`);
      view.blamed = row.blame[k];
    } else view.blamed = null;
    said.textContent = words.join(" · ");
  };
  const pick = found => { view.picked = found; if (found) tell(found); redraw(); };
  const longestGap = () => {
    const row = rows[0], idle = k => scene.tones[row.tone[k]].startsWith("idle:");
    let best = -1;
    for (let k = 0; k < row.ns.length; k++) if (idle(k) && (best < 0 || row.ns[k] > row.ns[best])) best = k;
    if (best < 0) { said.textContent = "the device is never idle"; return; }
    const span = Math.max(row.ns[best] * 8, 20000);
    view.from = Math.max(0, row.start[best] - span / 2); view.to = Math.min(scene.wall_ns, view.from + span);
    pick([0, best]);
  };
  let drag = null;
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((view.to - view.from) * event.deltaX / 600);
    else zoom(1.0015 ** event.deltaY, ns(event.offsetX));
  }, { passive: false });
  canvas.addEventListener("pointerdown", event => {
    drag = { x: event.clientX, from: view.from, moved: false, ruler: event.shiftKey };
    if (drag.ruler) view.ruler = [ns(event.offsetX), ns(event.offsetX)];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    if (!drag) { const over = at(event); canvas.title = over ? `${cut(scene.names[rows[over[0]].name[over[1]]], 300)} ${time(rows[over[0]].ns[over[1]])}` : ""; return; }
    const by = event.clientX - drag.x;
    drag.moved ||= Math.abs(by) > 3;
    if (drag.ruler) { view.ruler[1] = ns(event.offsetX); said.textContent = `measured: ${time(Math.abs(view.ruler[1] - view.ruler[0]))}`; redraw(); }
    else if (drag.moved) { const span = view.to - view.from; view.from = drag.from; view.to = drag.from + span; pan(-by / width() * span); }
  });
  canvas.addEventListener("pointerup", event => { if (drag && !drag.moved) { view.ruler = null; pick(at(event)); } drag = null; });
  canvas.addEventListener("keydown", event => {
    const span = view.to - view.from, middle = view.from + span / 2;
    const does = { w: () => zoom(0.7, middle), s: () => zoom(1 / 0.7, middle), a: () => pan(-span / 5), d: () => pan(span / 5),
      ArrowLeft: () => pan(-span / 5), ArrowRight: () => pan(span / 5), "+": () => zoom(0.7, middle), "-": () => zoom(1 / 0.7, middle),
      "0": () => zoom(1e9, middle), g: longestGap }[event.key];
    if (does) { event.preventDefault(); does(); }
  });
  const repaint = () => { colour = colours(); redraw(); };
  matchMedia("(prefers-color-scheme:dark)").addEventListener("change", repaint);
  new ResizeObserver(repaint).observe(canvas);
  canvas.style.height = `${tall}px`;
  host.append(
    el("p", { class: "tools" },
      el("button", { onclick: () => zoom(1e9, 0) }, "whole step"), el("button", { onclick: longestGap }, "longest idle gap"),
      el("button", { onclick: () => openInPerfetto(scene), title: "sends the rows below, names included, to ui.perfetto.dev" }, "open in Perfetto (leaves this machine)"),
      el("span", { class: "dim" }, "wheel or W S: zoom · drag or A D: pan · shift-drag: measure · click: what is it, and whose fault")),
    el("div", { class: "scroll tall" }, canvas), said);
  if (scene.left_out) host.append(el("p", { class: "dim" }, `${scene.left_out.toLocaleString("en")} of the deepest host records are not drawn`));
  draw();
}
