// The console: every state of the stream goes to every part of the page.

import { follow, token } from "./api.js";
import * as charts from "./charts.js";
import * as decisions from "./decisions.js";
import * as explain from "./explain.js";
import * as figures from "./figures.js";
import { History } from "./history.js";
import * as levels from "./levels.js";
import { find, offer, write } from "./page.js";
import * as pin from "./pin.js";
import * as slo from "./slo.js";

const SILENCE_MS = 3000; // the stream speaks five times a second
const parts = [figures, levels, slo, pin, explain];
const views = new Map(); // newest state of each model
const histories = new Map();
const chooser = find("model");
let shown = null; // name of the model on the page
let heard = 0;

function receive(view) {
  heard = performance.now();
  views.set(view.name, view);
  if (!histories.has(view.name)) histories.set(view.name, new History());
  histories.get(view.name).add(view, Date.now() / 1000);
  offer(chooser, [...views.keys()].map((name) => [name, name]));
  find("chooser").hidden = views.size < 2;
  if (view.name === chooser.value) present(view);
}

function present(view) {
  if (shown !== view.name) {
    shown = view.name;
    document.title = `${shown} – Foveate`;
    decisions.load(view);
  }
  write(find("problem"), view.problem ?? "");
  find("problem").hidden = view.problem === null;
  for (const part of parts) part.show(view);
  charts.show(histories.get(view.name));
  connected("live");
}

function connected(state) {
  const texts = { live: "live", lost: "connection lost, reconnecting" };
  find("connection").dataset.state = state;
  write(find("connection"), texts[state]);
}

/** Announce what was done, also to screen readers. */
function say(text) {
  find("message").textContent = text;
}

chooser.addEventListener("change", () => present(views.get(chooser.value)));
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(find("token").value);
  find("access").open = false;
  say("token saved for this tab");
});
find("forget").addEventListener("click", () => {
  token.set("");
  find("token").value = "";
  say("token forgotten");
});
find("token").value = token.get();

charts.start();
explain.start();
slo.start(say);
pin.start(say);
follow({
  model: receive,
  decision: (decision) => decisions.add(decision, views.get(decision.model)),
  state: (state) => {
    if (state === "lost") connected(state);
    else if (shown) decisions.load(views.get(shown)); // there may have been more meanwhile
  },
});
setInterval(() => {
  if (shown && performance.now() - heard > SILENCE_MS) connected("lost");
}, 1000);
