// The API: requests, refusals, and the frames of a stream.

import { authorization, signedIn } from "./session.js";
import { BASE, state } from "./state.js";

const SILENCE = 45_000; // ms: the server answers within 30 s, and a stream says something every 15 s

/** A refusal of the server's, in its own words. */
export class Refusal extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may be answered later. */
  get passes() {
    return [502, 503, 504].includes(this.status);
  }
}

/** Send a request; return the response, whatever it is. */
export async function call(method, path, { body, headers = {}, signal, keepalive } = {}) {
  await signedIn;
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const silent = new AbortController();
  const silence = setTimeout(() => silent.abort(new TypeError("no response")), SILENCE); // as `fetch` says it
  return fetch(new URL(path, BASE), {
    method,
    signal: AbortSignal.any(signal ? [signal, silent.signal] : [silent.signal]),
    keepalive,
    cache: method === "GET" ? "no-store" : undefined, // what is kept and what is asked again is decided here
    headers: { ...authorization(), ...json, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  }).finally(() => clearTimeout(silence));
}

/** Return the refusal that a response is. */
export async function refused(response) {
  const body = await response.json().catch(() => null);
  const words = body?.detail ?? `The server cannot be reached: what answers for it says ${response.status}.`;
  return new Refusal(response.status, words, response.headers.get("Retry-After"));
}

/** Send a request; return what the server says, or throw its refusal. */
export async function json(method, path, body) {
  const response = await call(method, path, { body });
  if (!response.ok) throw await refused(response);
  return response.json();
}

/** Get what is at a path if it is not what was got there last; null if it is. */
export async function changed(path) {
  const tag = state.etags.get(path);
  const response = await call("GET", path, { headers: tag ? { "If-None-Match": tag } : {} });
  if (response.status === 304) return null;
  if (!response.ok) throw await refused(response);
  const got = await response.json();
  if (response.headers.has("ETag")) state.etags.set(path, response.headers.get("ETag"));
  return got;
}

/**
 * Ask the server for something after what was asked of the same kind before: no answer overtakes another one, and none
 * is lost. Calls that come while one waits share it.
 */
export function inTurn(kind, ask) {
  const turn = state.turns.get(kind);
  if (turn?.waiting) return turn.waiting;
  const begin = () => {
    const running = ask();
    state.turns.set(kind, { running, waiting: null });
    return running;
  };
  if (!turn) return begin();
  const waiting = turn.running.catch(() => null).then(begin); // whoever asked is told of the failure
  state.turns.set(kind, { ...turn, waiting });
  return waiting;
}

/** Yield the events of a stream, in lists of those that came together. Ends early if the connection breaks. */
export async function* batches(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [pieces, begun, silence] = [[], "", null]; // of the frame that is not complete; of its end, perhaps
  for (;;) {
    silence = setTimeout(() => reader.cancel(), SILENCE);
    const { value, done } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const text = begun + value;
    begun = text.endsWith("\n") && !text.endsWith("\n\n") ? "\n" : ""; // the other half of the end may come next
    const parts = text.slice(0, text.length - begun.length).split("\n\n");
    pieces.push(parts.shift());
    if (!parts.length) continue;
    const frames = [pieces.join(""), ...parts];
    pieces = [frames.pop()];
    const events = frames.filter((frame) => frame.startsWith("data: ")).map(parsed);
    if (events.length) yield events;
  }
}

function parsed(frame) {
  return frame === "data: [DONE]" ? { type: "done" } : JSON.parse(frame.slice(6));
}

/** Return a new idempotency key. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
