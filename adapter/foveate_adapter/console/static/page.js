// Small helpers on the document.

export const find = (id) => document.getElementById(id);

/** An element with attributes (`class` among them) and children, strings or nodes. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Change text only where it differs, so that nobody is told twice. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Make the options of a select those given, as [value, text], and keep what is selected. */
export function offer(select, options) {
  const texts = options.map(([, text]) => text).join("\n");
  if (select.dataset.options === texts) return;
  select.dataset.options = texts;
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => String(value) === chosen)) select.value = chosen;
}
