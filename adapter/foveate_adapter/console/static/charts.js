// The live charts, each with its legend and a table of the same numbers.

import * as format from "./format.js";
import { find, make, write } from "./page.js";
import uPlot from "./vendor/uPlot.esm.js";

const TABLE_ROWS = 12; // one every five seconds
const TABLE_STEP = 25;

const stepped = uPlot.paths.stepped({ align: 1 });

/** Each: title, series as [name in the history, label, colour, options], how a value reads. */
const CHARTS = [
  {
    title: "Latency",
    wide: true,
    series: [
      ["p99", "p99", "a"],
      ["p50", "p50", "b"],
      ["slo", "SLO", "limit", { dash: [6, 4], paths: stepped }],
    ],
    text: format.ms,
  },
  {
    title: "Level",
    wide: true,
    series: [
      ["dearest", "dearest allowed", "c", { width: 1, paths: stepped }],
      ["cheapest", "cheapest allowed", "c", { width: 1, paths: stepped }],
      ["level", "of the last batch", "a", { paths: stepped }],
    ],
    text: format.count,
    levels: true,
  },
  {
    title: "Rate",
    series: [
      ["offered", "offered", "a"],
      ["served", "answered", "b"],
    ],
    text: format.perSecond,
  },
  { title: "Queue", series: [["queue", "waiting", "a"]], text: format.count },
  {
    title: "In time",
    series: [
      ["attainment", "in time", "a"],
      ["objective", "objective", "limit", { dash: [6, 4], paths: stepped }],
    ],
    text: format.percent,
    top: 1,
  },
  { title: "Error budget", series: [["budget", "misses allowed", "a"]], text: format.tenths },
  { title: "Served quality", series: [["quality", "quality", "a"]], text: format.percent },
  { title: "Tokens per image", series: [["tokens", "tokens", "a"]], text: format.tenths },
  { title: "Power", series: [["power", "all GPUs", "a"]], text: format.watts, whereKnown: true },
];

const clock = (time) => format.clock(new Date(1000 * time));
const sync = uPlot.sync("console");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
let charts = [];
let history = null;
let due = false;

export function start() {
  charts = CHARTS.map((chart) => new Chart(chart));
  const redraw = () => charts.forEach((chart) => chart.plot.redraw(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

/** Draw this history with the next frame; hidden pages draw nothing. */
export function show(newest) {
  history = newest;
  if (due || document.hidden) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    charts.forEach((chart) => chart.draw(history));
  });
}

class Chart {
  constructor(chart) {
    this.chart = chart;
    this.tabled = 0;
    this.legend = chart.series.map(([, label, name]) => {
      const value = make("b");
      return { value, item: make("li", { class: `key ${name}` }, `${label} `, value) };
    });
    const title = make("figcaption", {}, make("h3", {}, chart.title));
    title.append(make("ul", {}, ...this.legend.map(({ item }) => item)));
    this.canvas = make("div", { class: "plot", role: "img", "aria-label": `${chart.title}, chart` });
    this.table = this.#table();
    const details = make("details", {}, make("summary", {}, "Numbers"), this.table);
    this.details = details;
    this.figure = make("figure", { class: chart.wide ? "wide" : "" }, title, this.canvas, details);
    find("charts").append(this.figure);
    this.plot = new uPlot(this.#options(), [[], ...chart.series.map(() => [])], this.canvas);
    new ResizeObserver(([entry]) => {
      this.plot.setSize({ width: Math.floor(entry.contentRect.width), height: this.plot.height });
    }).observe(this.canvas);
  }

  draw(history) {
    this.figure.hidden = Boolean(this.chart.whereKnown) && history.power.at(-1) === null;
    if (this.figure.hidden) return;
    this.plot.setData([history.time, ...this.chart.series.map(([name]) => history[name])]);
    this.#read();
    const second = Math.floor(history.time.at(-1));
    if (this.details.open && second !== this.tabled) {
      this.tabled = second;
      this.#fill(history);
    }
  }

  /** Values under the pointer, or the newest ones. */
  #read() {
    const { idx } = this.plot.cursor;
    const last = this.plot.data[0].length - 1;
    this.legend.forEach(({ value }, index) => {
      write(value, this.chart.text(this.plot.data[index + 1][idx ?? last]));
    });
  }

  #fill({ time, ...series }) {
    for (let row = 0; row < TABLE_ROWS; row += 1) {
      const at = time.length - 1 - row * TABLE_STEP;
      const cells = this.table.tBodies[0].rows[row].cells;
      write(cells[0], at < 0 ? "" : clock(time[at]));
      this.chart.series.forEach(([name], index) => {
        write(cells[index + 1], at < 0 ? "" : this.chart.text(series[name][at]));
      });
    }
  }

  #table() {
    const heads = ["Time", ...this.chart.series.map(([, label]) => label)];
    const row = () => make("tr", {}, ...heads.map(() => make("td")));
    return make(
      "table",
      {},
      make("caption", {}, `${this.chart.title}, newest first`),
      make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...Array.from({ length: TABLE_ROWS }, row)),
    );
  }

  #options() {
    const { series, levels, text, wide } = this.chart;
    const axis = {
      stroke: () => colour("quiet"),
      grid: { stroke: () => colour("grid"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    return {
      width: 300,
      height: wide ? 180 : 140,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: sync.key } },
      hooks: { setCursor: [() => this.#read()] },
      scales: { y: levels ? { dir: -1, range: wholeLevels } : { range: this.#range } },
      axes: [
        { ...axis, size: 28, space: 90, values: (_, times) => times.map(clock) },
        { ...axis, size: 60, incrs: levels && [1, 2, 5], values: (_, ticks) => ticks.map(text) },
      ],
      series: [
        {},
        ...series.map(([, label, name, more]) => ({
          label,
          stroke: () => colour(name),
          width: 1.5,
          points: { show: false },
          ...more,
        })),
      ],
      bands: levels && [{ series: [2, 1], dir: 0, fill: () => colour("band") }],
    };
  }

  #range = (_, low, high) => {
    const { top } = this.chart;
    if (low === null) return [0, 1];
    if (this.chart.title === "Served quality") return [low - 0.002, high + 0.002];
    if (top) return [Math.min(low, 0.95 * top), 1.005 * top];
    return [Math.min(0, low * 1.1), Math.max(high * 1.1, 1)];
  };
}

function wholeLevels(_, low, high) {
  return low === null ? [-0.5, 1.5] : [low - 0.5, high + 0.5];
}
