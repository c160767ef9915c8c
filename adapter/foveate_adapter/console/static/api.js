// The adapter's HTTP API, as documented at docs. Only requests that change something carry the token.

const TOKEN = "foveate-token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (text) => (text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN)),
};

/** A request the adapter rejected: `fields` holds reasons by key, `message` the others. */
export class Refusal extends Error {
  constructor(status, detail) {
    const fields = {};
    const rest = [];
    for (const item of Array.isArray(detail) ? detail : [{ loc: [], msg: String(detail) }]) {
      // A 422 gives the key as location, other rejections begin with "key=value: ".
      const key = item.loc.at(-1) ?? /^(\w+)=/.exec(item.msg)?.[1];
      if (key) fields[key] = item.msg;
      else rest.push(item.msg);
    }
    super(rest.join("; "));
    this.status = status;
    this.fields = fields;
  }

  get text() {
    return [this.message, ...Object.values(this.fields)].filter(Boolean).join("; ");
  }
}

const path = (model, rest) => `v1/models/${encodeURIComponent(model)}/${rest}`;

export const setSlo = (model, slo) => change("PUT", path(model, "slo"), slo);
export const pin = (model, wish) => change("PUT", path(model, "pin"), wish);
export const unpin = (model) => change("DELETE", path(model, "pin"));
export const decisions = (model) => send(path(model, "decisions?limit=256"));

/** Classes of an image file and the fate of its patches at one level. */
export function explain(model, file, level, signal) {
  const query = new URLSearchParams({ level, top: 5 });
  const type = file.type || "application/octet-stream";
  return send(path(model, `explain?${query}`), {
    method: "POST",
    body: file,
    headers: { "Content-Type": type, ...authorization() },
    signal,
  });
}

/** Follow the event stream and reopen it whenever it ends. */
export function follow({ model, decision, state }) {
  const source = new EventSource("v1/events");
  source.addEventListener("model", (event) => model(JSON.parse(event.data)));
  source.addEventListener("decision", (event) => decision(JSON.parse(event.data)));
  source.addEventListener("open", () => state("live"));
  source.addEventListener("error", () => {
    state("lost");
    if (source.readyState !== EventSource.CLOSED) return; // it reconnects by itself
    setTimeout(() => follow({ model, decision, state }), 2000);
  });
}

function change(method, url, body) {
  const headers = { "Content-Type": "application/json", ...authorization() };
  return send(url, { method, headers, body: body && JSON.stringify(body) });
}

function authorization() {
  return token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
}

async function send(url, options) {
  let reply;
  try {
    reply = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "the adapter does not answer");
  }
  const body = await reply.json().catch(() => ({ detail: reply.statusText }));
  if (!reply.ok) throw new Refusal(reply.status, body.detail);
  return body;
}
