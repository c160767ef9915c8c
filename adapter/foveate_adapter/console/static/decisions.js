// The log of decisions that changed reason or range, newest first; as many as the adapter remembers.

import { decisions } from "./api.js";
import * as format from "./format.js";
import { find, make } from "./page.js";

const MAX_DECISIONS = 256;
const WHY = {
  starting: "no latency table from the model process yet",
  pinned: "an operator chose the level",
  saving: "the goal is energy: the cheapest level that is good enough",
  "no-signal": "no metrics from the server: cautious margin, open range",
  rebaselined: "the server's counters started over",
  "slo-missed": "requests missed the SLO: the margin shrinks",
  "at-limit": "not even the cheapest level carries the load",
  "load-rising": "the load needs a cheaper level",
  "queue-growing": "the queue needs a cheaper level",
  recovering: "margin or range grows again",
  hold: "nothing to change",
};

const body = find("decisions").tBodies[0];
let name = null;

/** Load the decisions the adapter remembers; repeated after a pause, during which it may have made more. */
export async function load(view) {
  name = view.name;
  const past = await decisions(name).catch(() => null);
  if (past && name === view.name) body.replaceChildren(...past.map((item) => row(item, view.levels)));
}

export function add(decision, view) {
  if (decision.model !== name) return;
  const newest = body.firstElementChild?.dataset.time;
  if (Date.parse(decision.time) <= Date.parse(newest)) return; // it came with load()
  body.prepend(row(decision, view.levels));
  if (body.children.length > MAX_DECISIONS) body.lastElementChild.remove();
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
