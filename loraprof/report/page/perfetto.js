// Hands the rows that are drawn to Perfetto's page in a window of its own, by messages: what is named on them leaves this
// machine, and the button says so. It answers a PING once it listens (ui.perfetto.dev/docs, "deep linking").
const PERFETTO = "https://ui.perfetto.dev";
const PATIENCE = { every: 100, most: 300 };

const traceOf = scene => ({
  displayTimeUnit: "ns",
  traceEvents: rowsOf(scene).flatMap((row, tid) => [
    { ph: "M", pid: 1, tid, name: "thread_name", args: { name: row.title } },
    { ph: "M", pid: 1, tid, name: "thread_sort_index", args: { sort_index: tid } },
    ...Array.from(row.start, (start, k) =>
      ({ ph: "X", pid: 1, tid, ts: start / 1000, dur: row.ns[k] / 1000, name: scene.names[row.name[k]], cat: row.group })),
  ]),
});

function openInPerfetto(scene) {
  const opened = window.open(PERFETTO);
  if (!opened) return;
  let asked = 0;
  const stop = () => { clearInterval(asking); removeEventListener("message", answered); };
  const answered = event => {
    if (event.source !== opened || event.data !== "PONG") return;
    stop();
    const buffer = new TextEncoder().encode(JSON.stringify(traceOf(scene))).buffer;
    opened.postMessage({ perfetto: { buffer, title: `loraprof ${scene.step}` } }, PERFETTO);
  };
  const asking = setInterval(() => { if (++asked > PATIENCE.most) stop(); else opened.postMessage("PING", PERFETTO); }, PATIENCE.every);
  addEventListener("message", answered);
}
