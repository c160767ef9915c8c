// The log of decisions that changed reason or range, newest first; as many as the adapter remembers.

import { decisions } from "./api.js";
import * as format from "./format.js";
import { find, make } from "./page.js";

const MOST = 256;
const WHY = {
  starting: "no latency table from the model process yet",
  pinned: "an operator chose the level",
  saving: "the goal is energy: the cheapest level that is good enough",
  "no-signal": "no news from the server: cautious margin, open range",
  rebaselined: "the server's counters started over",
  "slo-missed": "requests missed the SLO: less of it is planned for",
  "at-limit": "not even the cheapest level carries the load",
  "load-rising": "the load needs a cheaper level",
  "queue-growing": "the queue needs a cheaper level",
  recovering: "margin or range grows again",
  hold: "nothing to change",
};

const body = find("decisions").tBodies[0];
let name = null;

/** Begin with what the adapter remembers of a model; again after a pause, which may have had more. */
export async function load(view) {
  name = view.name;
  const past = await decisions(name).catch(() => []);
  if (name === view.name) body.replaceChildren(...past.map((item) => row(item, view.levels)));
}

export function add(decision, view) {
  if (decision.model !== name) return;
  if (body.firstElementChild?.dataset.time === decision.time) return; // it came with load()
  body.prepend(row(decision, view.levels));
  if (body.children.length > MOST) body.lastElementChild.remove();
}

function row(item, levels) {
  const { dearest, cheapest } = item;
  const range = dearest === cheapest ? levels[dearest].name : `${dearest}–${cheapest}`;
  const reason = make("td", {}, make("strong", {}, item.reason), ` ${WHY[item.reason] ?? ""}`);
  const time = make("time", { datetime: item.time }, format.clock(new Date(item.time)));
  const cells = [
    range,
    item.margin.toFixed(2),
    format.perSecond(item.load_per_s),
    format.count(item.queue_depth),
    format.tenths(item.credit),
  ].map((text) => make("td", {}, text));
  const line = make("tr", { "data-reason": item.reason }, make("td", {}, time), reason, ...cells);
  line.dataset.time = item.time;
  return line;
}
