// One image at level 0 and at another level: its best classes, and what became of its patches.

import * as api from "./api.js";
import { submit } from "./form.js";
import { percent } from "./format.js";
import { find, make, offer, write } from "./page.js";
import { drawMap, FATES } from "./tokens.js";

const form = find("image");
const compare = find("compare");
let model = null;
let file = null;
let running = null;

export function start() {
  find("file").addEventListener("change", (event) => take(event.target.files[0]));
  compare.addEventListener("change", () => ask());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  const zone = find("explain");
  for (const kind of ["dragenter", "dragover"]) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  zone.addEventListener("dragleave", (event) => {
    if (!zone.contains(event.relatedTarget)) zone.classList.remove("over");
  });
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

export function show(view) {
  const changed = model !== view.name;
  model = view.name;
  const options = view.levels.slice(1).map((level) => [level.index, `${level.index} ${level.name}`]);
  offer(compare, options);
  if (changed && options.length) compare.value = options.at(-1)[0];
}

function take(chosen) {
  if (!chosen) return;
  file = chosen;
  ask();
}

async function ask() {
  if (!file) return;
  running?.abort();
  const { signal } = (running = new AbortController());
  const levels = compare.value ? ["0", compare.value] : ["0"];
  write(find("verdict"), "asking …");
  const done = await submit(form, async () => {
    try {
      const answers = [];
      // One after the other: both wish for a level, and such requests share little time.
      for (const level of levels) answers.push(await api.explain(model, file, level, signal));
      const picture = await createImageBitmap(file);
      if (!signal.aborted) present(answers, picture);
      picture.close();
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  });
  if (!done) {
    find("answers").replaceChildren();
    write(find("verdict"), "");
  }
}

function present(answers, picture) {
  find("answers").replaceChildren(...answers.map((answer) => card(answer, picture)));
  const [exact, other] = answers.map(({ classes }) => title(classes[0]));
  const same = exact === other ? `both levels say ${exact}` : `level 0 says ${exact}, not ${other}`;
  write(find("verdict"), answers.length === 1 ? `level 0 says ${exact}` : same);
}

function card(answer, picture) {
  const counts = FATES.map((fate) => [fate, answer.fates.filter((own) => own === fate).length]);
  const present = counts.filter(([, count]) => count);
  const told = present.map(([fate, count]) => `${count} ${fate}`).join(", ");
  const canvas = make("canvas", {
    role: "img",
    "aria-label": `${answer.fates.length} patches: ${told}`,
  });
  drawMap(canvas, picture, answer);
  const keys = present.map(([fate, count]) => make("li", { class: `fate ${fate}` }, `${count} ${fate}`));
  const name = `${answer.level} ${answer.level_name}`;
  const heading = make("h3", {}, `Level ${name}`);
  return make(
    "article",
    { "data-level": answer.level },
    heading,
    canvas,
    make("ul", { class: "fates" }, ...keys),
    classes(answer, name),
  );
}

function classes(answer, name) {
  const rows = answer.classes.map((item) => {
    const meter = make("meter", { min: 0, max: 1, value: item.score, "aria-hidden": "true" });
    const score = make("td", { class: "share" }, meter, percent(item.score));
    return make("tr", {}, make("th", { scope: "row" }, title(item)), score);
  });
  const head = make("tr", {}, make("th", { scope: "col" }, "Class"), make("th", { scope: "col" }, "Probability"));
  return make(
    "table",
    {},
    make("caption", {}, `Top classes at level ${name}`),
    make("thead", {}, head),
    make("tbody", {}, ...rows),
  );
}

const title = ({ label, index }) => label ?? `class ${index}`;
