// The ladder: what each level is worth, whether it may be used, and how much it is.

import * as format from "./format.js";
import { find, make, write } from "./page.js";

const body = find("levels").tBodies[0];
let rows = [];

export function show({ levels, observation }) {
  const names = levels.map(({ name }) => name).join();
  if (body.dataset.names !== names) build(levels, names);
  const answers = observation?.answers ?? {};
  const total = Object.values(answers).reduce((sum, n) => sum + n, 0);
  levels.forEach((level, index) => {
    const share = total ? (answers[index] ?? 0) / total : 0;
    const { batch, allowed, meter, text, row } = rows[index];
    write(batch, format.ms(level.batch_ms));
    write(allowed, level.allowed ? "yes" : "no");
    meter.value = share;
    write(text, format.percent(share));
    row.classList.toggle("current", observation?.level === index);
  });
}

function build(levels, names) {
  body.dataset.names = names;
  rows = levels.map((level) => {
    const row = make("tr");
    const batch = make("td");
    const allowed = make("td");
    const text = make("span");
    const meter = make("meter", { min: 0, max: 1, "aria-hidden": "true" });
    const head = make("th", { scope: "row" }, `${level.index} ${level.name}`);
    row.append(head, make("td", {}, format.percent(level.quality)), batch, allowed);
    row.append(make("td", { class: "share" }, meter, text));
    return { row, batch, allowed, meter, text };
  });
  body.replaceChildren(...rows.map(({ row }) => row));
}
