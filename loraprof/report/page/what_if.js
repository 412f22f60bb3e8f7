// What several changes give together: a box each, and the outcome for the set that is ticked, looked up by its bits.
const ratio = value => `${value.toFixed(2)}x`;
const between = o => `${ratio(o.speedup)} [${o.low.toFixed(2)}, ${o.high.toFixed(2)}]`;
const ASIDE = { other_training: "changes what is trained", numerics: "check the loss", hardware: "another device", data: "other batches" };
function whatIf(data) {
  const { choices, outcomes, alone } = data.what_if, host = section("what-if"), now = outcomes[0].step_ns;
  const said = el("output", { class: "together" }), bar = el("div", { class: "left", "aria-hidden": "true" });
  const combined = choices.filter(c => c.apart === null);
  const boxes = combined.map((_, i) => el("input", { type: "checkbox", value: 2 ** i, checked: Boolean(Number(place.read("what-if")) & 2 ** i) }));
  const show = () => {
    const set = boxes.filter(box => box.checked).reduce((bits, box) => bits | Number(box.value), 0), found = outcomes[set];
    said.replaceChildren(...set ? [el("b", {}, `${time(now)} → ${time(found.step_ns)}`), ` · ${between(found)} · ${found.basis}`] : [el("b", {}, time(now)), " · tick changes to see the step with them"]);
    bar.style.width = `${100 * found.step_ns / now}%`;
    place.write("what-if", set ? String(set) : "");
  };
  const row = (choice, box, own) => el("li", {}, el("label", {}, box, el("span", {}, el("b", {}, `${choice.title} `), el("small", {}, [choice.id, ASIDE[choice.kind]].filter(Boolean).join(" · ")), el("code", {}, cut(choice.text, 300)), el("small", {}, `alone: ${time(own.step_ns)}, ${between(own)}${choice.apart ? `; not combined: ${choice.apart}` : ""}`))));
  boxes.forEach(box => box.addEventListener("change", show));
  host.append(
    el("p", { class: "result" }, said, el("span", { class: "track" }, bar)),
    el("ul", { class: "choices" }, ...combined.map((choice, i) => row(choice, boxes[i], outcomes[2 ** i])),
      ...choices.filter(c => c.apart !== null).map((choice, i) => row(choice, el("input", { type: "checkbox", disabled: true }), alone[i]))),
    el("p", { class: "dim" }, "The changes of a set are applied together to the step as it runs without the profiler: what two of them take counts once."));
  show();
}
