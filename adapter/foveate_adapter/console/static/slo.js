// The SLO editor. A field that is being edited is left alone, the others show what is in force.

import { setSlo } from "./api.js";
import { number, submit } from "./form.js";
import { find } from "./page.js";

const form = find("slo");
const KEYS = ["latency_ms", "objective", "min_quality", "goal"];
const edited = new Set();
let current = null;

export function start(say) {
  form.addEventListener("input", (event) => edited.add(event.target.name));
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    undo();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wish = Object.fromEntries(KEYS.map((key) => [key, read(key)]));
    if (await submit(form, () => setSlo(current.name, wish))) {
      edited.clear();
      say("SLO set");
    }
  });
}

export function show(view) {
  if (current && current.name !== view.name) edited.clear();
  current = view;
  form.firstElementChild.disabled = view.read_only;
  for (const key of KEYS) {
    if (!edited.has(key)) form.elements[key].value = view.slo[key];
  }
}

function undo() {
  edited.clear();
  if (current) show(current);
  submit(form, () => {}); // and no reasons any more
}

function read(key) {
  const text = form.elements[key].value;
  return key === "goal" ? text : number(text);
}
