// The last five minutes of one model: a fixed number of moments, the oldest makes room.

const MOMENTS = 1500; // five minutes at five a second

const SERIES = {
  time: (view, now) => now,
  p99: (view) => view.observation?.age_p99_ms,
  p50: (view) => view.observation?.age_p50_ms,
  slo: (view) => view.slo.latency_ms,
  level: (view) => view.observation?.level,
  dearest: (view) => view.policy?.dearest,
  cheapest: (view) => view.policy?.cheapest,
  offered: (view) => view.decision?.load_per_s,
  served: (view) => view.observation?.served_per_s,
  queue: (view) => view.observation?.queue_depth,
  attainment: (view) => view.observation?.attainment,
  objective: (view) => view.slo.objective,
  budget: (view) => view.decision?.credit,
  quality: (view) => view.observation?.quality,
  tokens: (view) => view.observation?.tokens_per_image,
  power: (view) => view.observation?.power_w,
};

export class History {
  constructor() {
    for (const name of Object.keys(SERIES)) this[name] = [];
  }

  /** Add a state of the model, seen at `now` (seconds). */
  add(view, now) {
    for (const [name, value] of Object.entries(SERIES)) {
      if (this[name].length === MOMENTS) this[name].shift();
      this[name].push(value(view, now) ?? null);
    }
  }
}
