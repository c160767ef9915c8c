// The figures at the top: one entry each of a description list.

import * as format from "./format.js";
import { UNKNOWN } from "./format.js";
import { find, make, write } from "./page.js";

/** Each: name, value, what it is judged by, and whether it is as it should be (null: no matter). */
const FIGURES = [
  {
    name: "Rate",
    value: ({ decision }) => format.perSecond(decision?.load_per_s),
    note: ({ observation }) => `${format.perSecond(observation?.served_per_s)} answered`,
  },
  {
    name: "Latency p99",
    value: ({ observation }) => format.ms(observation?.age_p99_ms),
    note: ({ observation, slo }) =>
      `p50 ${format.ms(observation?.age_p50_ms)}, SLO ${format.ms(slo.latency_ms)}`,
    good: ({ observation, slo }) => below(observation?.age_p99_ms, slo.latency_ms),
  },
  {
    name: "In time",
    value: ({ observation }) => format.percent(observation?.attainment),
    note: ({ slo }) => `objective ${format.percent(slo.objective)}`,
    good: ({ observation, slo }) => below(slo.objective, observation?.attainment),
  },
  {
    name: "Error budget",
    value: ({ decision }) => format.tenths(decision?.credit),
    note: ({ decision }) => (decision?.credit < 0 ? "misses in debt" : "misses still allowed"),
    good: ({ decision }) => below(0, decision?.credit),
  },
  {
    name: "Level",
    value: ({ observation }) => format.count(observation?.level),
    note: ({ observation, levels }) => levels[observation?.level]?.name ?? "no batch yet",
  },
  {
    name: "Queue",
    value: ({ observation }) => format.count(observation?.queue_depth),
    note: () => "requests waiting",
  },
  {
    name: "Served quality",
    value: ({ observation }) => format.percent(observation?.quality),
    note: ({ levels }) => `level 0 has ${format.percent(levels[0].quality)}`,
  },
  {
    name: "Tokens per image",
    value: ({ observation }) => format.tenths(observation?.tokens_per_image),
    note: () => "in the last block",
  },
  {
    name: "Power",
    value: ({ observation }) => format.watts(observation?.power_w),
    note: ({ observation }) => energy(observation),
    whereKnown: true,
  },
];

const shown = FIGURES.map(({ name, ...figure }) => {
  const value = make("dd", { class: "value" });
  const note = make("dd", { class: "note" });
  const entry = make("div", {}, make("dt", {}, name), value, note);
  find("figures").append(entry);
  return { ...figure, entry, value, note, read: figure.value, remark: figure.note };
});

export function show(view) {
  for (const { entry, value, note, read, remark, good, whereKnown } of shown) {
    write(value, read(view));
    entry.hidden = Boolean(whereKnown) && value.textContent === UNKNOWN;
    write(note, remark(view));
    const verdict = good?.(view) ?? null;
    value.dataset.good = verdict === null ? "" : String(verdict);
  }
}

function below(low, high) {
  return low == null || high == null ? null : low <= high;
}

function energy(observation) {
  const served = observation?.served_per_s;
  return served ? `${format.joules(observation.power_w / served)} per answer` : "of all GPUs";
}
