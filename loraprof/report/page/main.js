// Sorts a static table by the clicked column: numbers by data-v, texts as texts; footers stay where they are.
for (const button of document.querySelectorAll("main th button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") === "descending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[head.cellIndex].dataset.v ?? row.cells[head.cellIndex].textContent;
  const order = (a, b) => (key(a) - key(b)) || String(key(a)).localeCompare(String(key(b)));
  body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
});
for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", async () => {
  await navigator.clipboard.writeText(button.previousElementSibling.textContent);
  button.textContent = "copied";
});
if (packed) unpack().then(data => {
  const filter = tables(data);
  roofline(data, filter);
  if (data.scene) { icicle(data); timeline(data); }
  document.documentElement.dataset.ready = performance.now().toFixed(0);
});
