// The figures at the top: one entry each of a description list.

import * as format from "./format.js";
import { find, make, write } from "./page.js";

/** Each: name, value, remark, and whether it is as it should be (null: not known). */
const FIGURES = [
  {
    name: "Rate",
    read: ({ decision }) => format.perSecond(decision?.load_per_s),
    remark: ({ observation }) => `${format.perSecond(observation?.served_per_s)} answered`,
  },
  {
    name: "Latency p99",
    read: ({ observation }) => format.ms(observation?.age_p99_ms),
    remark: ({ observation, slo }) =>
      `p50 ${format.ms(observation?.age_p50_ms)}, SLO ${format.ms(slo.latency_ms)}`,
    good: ({ observation, slo }) => below(observation?.age_p99_ms, slo.latency_ms),
  },
  {
    name: "In time",
    read: ({ observation }) => format.percent(observation?.attainment),
    remark: ({ slo }) => `objective ${format.percent(slo.objective)}`,
    good: ({ observation, slo }) => below(slo.objective, observation?.attainment),
  },
  {
    name: "Error budget",
    read: ({ decision }) => format.tenths(decision?.credit),
    remark: ({ decision }) => (decision?.credit < 0 ? "misses in debt" : "misses still allowed"),
    good: ({ decision }) => below(0, decision?.credit),
  },
  {
    name: "Level",
    read: ({ observation }) => format.count(observation?.level),
    remark: ({ observation, levels }) => levels[observation?.level]?.name ?? "no batch yet",
  },
  {
    name: "Queue",
    read: ({ observation }) => format.count(observation?.queue_depth),
    remark: () => "requests waiting",
  },
  {
    name: "Served quality",
    read: ({ observation }) => format.percent(observation?.quality),
    remark: ({ levels }) => `level 0 has ${format.percent(levels[0].quality)}`,
  },
  {
    name: "Tokens per image",
    read: ({ observation }) => format.tenths(observation?.tokens_per_image),
    remark: () => "in the last block",
  },
  {
    name: "Power",
    read: ({ observation }) => format.watts(observation?.power_w),
    remark: ({ observation }) => energy(observation),
    whereKnown: true,
  },
];

const shown = FIGURES.map(({ name, ...figure }) => {
  const value = make("dd", { class: "value" });
  const note = make("dd", { class: "note" });
  const entry = make("div", {}, make("dt", {}, name), value, note);
  find("figures").append(entry);
  return { ...figure, entry, value, note };
});

export function show(view) {
  for (const { read, remark, good, whereKnown, entry, value, note } of shown) {
    write(value, read(view));
    write(note, remark(view));
    value.dataset.good = good?.(view) ?? "";
    entry.hidden = Boolean(whereKnown) && value.textContent === format.UNKNOWN;
  }
}

function below(low, high) {
  return low == null || high == null ? null : low <= high;
}

function energy(observation) {
  const served = observation?.served_per_s;
  return served ? `${format.joules(observation.power_w / served)} per answer` : "of all GPUs";
}
