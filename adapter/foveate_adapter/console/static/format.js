// Numbers as text.

export const UNKNOWN = "–";

const known = (write) => (value) => (value === null || value === undefined ? UNKNOWN : write(value));
const digits = (value, decimals) =>
  value.toLocaleString("en", { maximumFractionDigits: decimals, useGrouping: true });

export const count = known((value) => digits(value, 0));
export const tenths = known((value) => digits(value, Math.abs(value) < 100 ? 1 : 0));
export const ms = known((value) => `${digits(value, value < 10 ? 1 : 0)} ms`);
export const perSecond = known((value) => `${digits(value, value < 10 ? 1 : 0)}/s`);
export const percent = known((value) => `${(100 * value).toFixed(2)} %`);
export const watts = known((value) => `${digits(value, 0)} W`);
export const joules = known((value) => `${digits(value, 2)} J`);
export const seconds = known((value) =>
  value < 120 ? `${Math.ceil(value)} s` : `${Math.round(value / 60)} min`,
);

export const clock = (date) => date.toLocaleTimeString("en-GB");
