"""A tab in TensorBoard that shows the page of the selected run. Nothing is fetched from anywhere but TensorBoard.

``loraprof export --to tensorboard`` leaves the page in the run's folder; the tab is there as soon as one run has one.
"""

import json
from pathlib import Path
from typing import Any, Final

from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from loraprof.report.export.tensorboard import PAGE

SCRIPT: Final = """
export async function render() {
  const runs = await (await fetch("./runs")).json();
  const choose = document.createElement("select"), frame = document.createElement("iframe");
  choose.setAttribute("aria-label", "run");
  for (const run of runs) choose.append(new Option(run, run));
  const show = () => { frame.src = `./page?run=${encodeURIComponent(choose.value)}`; };
  choose.addEventListener("change", show);
  document.body.style.margin = "0";
  Object.assign(frame.style, {border: 0, width: "100%", height: "calc(100vh - 2.5rem)"});
  document.body.append(choose, frame);
  show();
}
"""


class LoraprofPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Found by TensorBoard through the entry point ``tensorboard_plugins``."""

    plugin_name = "loraprof"

    def __init__(self, context: Any) -> None:
        self._folder = Path(context.logdir or ".")

    def get_plugin_apps(self) -> dict[str, Any]:
        answers = {"/index.js": self._script, "/runs": self._list, "/page": self._page}
        return {path: wrappers.Request.application(answer) for path, answer in answers.items()}

    def is_active(self) -> bool:
        return bool(self.runs())

    def frontend_metadata(self) -> Any:
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="loraprof")

    def runs(self) -> list[str]:
        """Runs that have a page, by their folder below the log directory; ``.`` is that itself."""
        return sorted(str(page.parent.relative_to(self._folder)) for page in self._folder.rglob(PAGE))

    def _script(self, request: wrappers.Request) -> wrappers.Response:
        return wrappers.Response(SCRIPT, content_type="application/javascript")

    def _list(self, request: wrappers.Request) -> wrappers.Response:
        return wrappers.Response(json.dumps(self.runs()), content_type="application/json")

    def _page(self, request: wrappers.Request) -> wrappers.Response:
        """The page carries its own policy: nothing but its script runs, nothing is loaded."""
        run = request.args.get("run", "")
        if run not in self.runs():
            return wrappers.Response("no such run", status=404, content_type="text/plain")
        return wrappers.Response((self._folder / run / PAGE).read_bytes(), content_type="text/html; charset=utf-8")
