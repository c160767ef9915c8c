// What all forms share: reasons of a refusal appear beside the field they are about.

import { Refusal } from "./api.js";
import { find } from "./page.js";

/** A number if it is one; else the text, for the API to say what is wrong with it. */
export function number(text) {
  const value = Number(text);
  return text.trim() === "" ? undefined : Number.isFinite(value) ? value : text;
}

/** Run `action`, and show in `form` why it was refused, if so. Resolves to whether it was done. */
export async function submit(form, action) {
  clear(form);
  try {
    await action();
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 401) askForToken();
    showError(form, error);
    return false;
  }
}

/** Take back what was told. */
export function clear(form) {
  for (const output of form.querySelectorAll(".error")) output.textContent = "";
  for (const field of form.elements) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

function showError(form, error) {
  let first = null;
  const rest = error.message ? [error.message] : [];
  for (const [key, reason] of Object.entries(error.fields)) {
    const field = form.elements[key];
    if (!field?.id) {
      rest.push(`${key}: ${reason}`);
      continue;
    }
    const output = find(`${field.id}-error`);
    output.textContent = reason;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", output.id);
    first ??= field;
  }
  form.querySelector("[data-rest]").textContent = rest.join("; ");
  if (error.status !== 401) first?.focus();
}

function askForToken() {
  find("access").open = true;
  find("token").focus();
}
