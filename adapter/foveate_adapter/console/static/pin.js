// Pin and unpin.

import { pin, unpin } from "./api.js";
import { number, submit } from "./form.js";
import * as format from "./format.js";
import { find, offer, write } from "./page.js";

const form = find("pin");
let name = null;

export function start(say) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wish = { level: form.elements.level.value, expires_s: number(form.elements.expires_s.value) };
    if (await submit(form, () => pin(name, wish))) say(`pinned to ${wish.level}`);
  });
  find("unpin").addEventListener("click", async () => {
    if (await submit(form, () => unpin(name))) say("unpinned");
  });
}

export function show(view) {
  name = view.name;
  form.firstElementChild.disabled = view.read_only;
  offer(form.elements.level, view.levels.map((level) => [level.name, `${level.index} ${level.name}`]));
  find("unpin").disabled = view.pin === null;
  write(find("pinned"), view.pin ? `pinned to ${view.pin.level}, ${left(view.pin)}` : "not pinned");
}

function left({ expires_s: seconds }) {
  return seconds === null ? "until unpinned" : `${format.seconds(seconds)} left`;
}
