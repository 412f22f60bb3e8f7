// Sorts a static table by the clicked column: numbers by data-v, texts as texts; footers stay where they are.
for (const button of document.querySelectorAll("main th button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") === "descending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[head.cellIndex]?.dataset.v ?? row.cells[head.cellIndex]?.textContent ?? "";
  const order = (a, b) => (key(a) - key(b)) || String(key(a)).localeCompare(String(key(b)));
  body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
});
for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", async () => {
  await navigator.clipboard.writeText(button.previousElementSibling.textContent);
  button.textContent = "copied";
});
// The step as it runs, and as the profiler slowed it: a switch where both are known.
const draw = data => {
  for (const id of ["icicle", "timeline", "all-gaps"]) section(id)?.replaceChildren();
  icicle(data);
  if (data.scene.rows.length) timeline(data);
  else section("timeline").append(el("p", { class: "dim" }, "there is no time line of the step without the profiler: see it as profiled"));
  gaps(data);
};
if (packed) unpack().then(data => {
  labels = new Map(Object.entries(data.labels));
  const filter = tables(data), names = ["without the profiler", "as profiled"].slice(-data.scenes.length);
  roofline(data, filter);
  if (data.what_if) whatIf(data);
  if (data.ranks.length) ranks(data);
  if (data.scenes.length) {
    const choose = (scene, button) => {
      draw({ ...data, scene });
      for (const b of button.parentElement.querySelectorAll("button")) b.setAttribute("aria-pressed", b === button);
    };
    const buttons = data.scenes.map((scene, i) => el("button", { onclick: event => choose(scene, event.currentTarget) }, `${names[i]}: ${time(scene.wall_ns)}`));
    section("icicle").parentElement.before(el("p", { class: "tools", id: "which" }, ...buttons));
    choose(data.scenes[0], buttons[0]);
  }
  document.documentElement.dataset.ready = performance.now().toFixed(0);
});
