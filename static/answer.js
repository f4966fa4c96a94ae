// One answer, shown from its events: the same for one that streams and for one that is stored.

import { button, make, moment } from "./dom.js";
import { Writing } from "./markdown.js";
import { keepPlace } from "./scroll.js";

const AT_ONCE = 300; // events that are shown in one frame
const SHOWN = 200; // characters of what a tool is called with, and of the last thought
const ENDINGS = {
  stopped: "You stopped this answer.",
  interrupted: "This answer was interrupted.",
  failed: "This answer failed.",
};

export class Answer {
  live = true; // until its end is known
  said = ""; // its text, as Markdown
  #steps = new Map(); // by the id of the tool call
  #text = null; // the text that is being written
  #piece = ""; // what is not written of it yet
  #thought = null; // the reasoning that is being written
  #last = ""; // the end of it
  #waiting = []; // events that are not shown yet
  #withdraw = null; // what takes back their showing, until then

  constructor() {
    this.status = make("p", { className: "status" }, "Thinking…");
    this.body = make("div", { className: "body" }, this.status);
    this.foot = make("footer", { className: "foot" });
    const speaker = make("h2", { className: "unseen" }, "Assistant");
    this.element = make("li", { className: "answer" }, speaker, this.body, this.foot);
  }

  /** Make the answer that is stored in a message. */
  static of(message) {
    const answer = new Answer();
    if (message.status === "streaming") return answer;
    for (const event of eventsOf(message)) answer.#show(event);
    answer.#write();
    answer.end(message);
    return answer;
  }

  /** Show events with the next frame of the page. Frames that cost much leave the page time for other things. */
  add(events) {
    this.#waiting.push(...events);
    if (this.#withdraw) return;
    const frame = requestAnimationFrame(() => {
      const begun = performance.now();
      this.#draw(AT_ONCE);
      const rest = setTimeout(() => this.#rested(), 3 * (performance.now() - begun));
      this.#withdraw = () => clearTimeout(rest);
    });
    this.#withdraw = () => cancelAnimationFrame(frame);
  }

  #rested() {
    this.#withdraw = null;
    if (this.#waiting.length) this.add([]);
  }

  /** Show what has come, now. */
  settle() {
    this.#withdraw?.();
    this.#withdraw = null;
    this.#draw(Infinity);
  }

  #draw(most) {
    keepPlace(() => {
      for (const event of this.#waiting.splice(0, most)) this.#show(event);
      this.#write();
    });
  }

  #show(event) {
    if (event.type === "text") this.#say(event.content);
    else if (event.type === "thinking" && event.thread_id === undefined) this.#think(event.content);
    else if (event.type === "tool_call") this.#begin(event);
    else if (event.type === "tool_result") this.#finish(event);
    else if (event.type === "error") this.#mark(event.message, "failed");
  }

  #say(content) {
    this.said += content;
    if (this.#thought) this.#break();
    this.status.hidden = true;
    this.#text ??= new Writing(this.#put(make("div", { className: "text" })));
    this.#piece += content;
  }

  #write() {
    this.#text?.add(this.#piece);
    if (this.#piece) this.#thought?.append(this.#piece);
    if (this.#thought) this.status.textContent = this.#last.trim().split("\n").at(-1) || "Thinking…";
    this.#piece = "";
  }

  #think(content) {
    if (this.#text) this.#break();
    if (!this.#thought) {
      this.#thought = make("div", { className: "words", dir: "auto" });
      this.#put(make("details", { className: "thought" }, make("summary", {}, "Thoughts"), this.#thought));
      this.#last = "";
    }
    this.#piece += content;
    this.#last = (this.#last + content).slice(-SHOWN);
    this.status.hidden = false;
  }

  #begin({ id, name, args }) {
    this.#break();
    const state = make("span", { className: "state" }, "running");
    const summary = make("summary", {}, make("span", { className: "name", dir: "auto" }, sentence(name, args)), state);
    const step = make("details", { className: "step running" }, summary, ...unfolded("Arguments", args));
    this.#steps.set(id, { step, state });
    this.#put(step);
  }

  #finish({ id, result }) {
    const { step, state } = this.#steps.get(id) ?? {};
    if (!step) return;
    const failed = result?.success === false;
    step.classList.replace("running", failed ? "failed" : "done");
    state.textContent = failed ? "failed" : "done";
    step.append(...unfolded("Result", result));
  }

  /** The text or the reasoning that was being written is complete. */
  #break() {
    this.#write();
    this.#text?.end();
    this.#text = this.#thought = null;
  }

  #put(part) {
    this.status.before(part);
    return part;
  }

  /** Say at the end how the answer ended. */
  #mark(words, kind) {
    this.status.hidden = true;
    for (const { step, state } of this.#steps.values()) {
      if (step.classList.replace("running", "failed")) state.textContent = "cut off";
    }
    this.body.querySelector(".mark")?.remove();
    const again = button("Try again", null, { className: "again" });
    this.body.append(make("p", { className: `mark ${kind}` }, make("span", { dir: "auto" }, words), again));
  }

  /** The answer is over, as this stored message says. */
  end({ status, error, created_at: at }) {
    this.live = false;
    this.status.hidden = true;
    this.#break();
    if (ENDINGS[status]) this.#mark(error ?? ENDINGS[status], status);
    const again = button("Try again", null, {
      className: "again",
      title: "Another answer in place of this one. What it did to your tasks stays.",
    });
    const copying = button("Copy", null, { className: "copy-answer", hidden: !this.said });
    this.foot.replaceChildren(moment(at), copying, ...(ENDINGS[status] ? [] : [again]));
  }

  /** What a screen reader is told when the answer is over: what was said, and how it ended. */
  get spoken() {
    const parts = [...this.body.querySelectorAll(".text, .mark > span")].map((part) => part.innerText);
    return parts.join(" ") || "The answer has no text.";
  }
}

function unfolded(label, value) {
  const data = make("pre", { tabIndex: 0, dir: "auto" }, JSON.stringify(value, null, 2));
  return [make("p", { className: "label" }, label), data];
}

/** What a tool call does, in a few words. */
function sentence(name, args) {
  const words = name.replaceAll("_", " ");
  const main = args?.title ?? args?.task_id ?? (args?.status === "all" ? "" : args?.status) ?? "";
  const all = words.charAt(0).toUpperCase() + words.slice(1) + (main === "" ? "" : `: ${main}`);
  return all.length > SHOWN ? `${all.slice(0, SHOWN)}…` : all;
}

/** The events that a stored answer is made of: reasoning, text and tool calls in their order. */
function* eventsOf({ content, tool_calls: calls, reasoning = [] }) {
  const letters = [...content]; // `at` counts characters, not UTF-16 units
  const places = [
    ...reasoning.map((thought) => [thought.at, thought.calls, 0, thought]),
    ...calls.map((call, n) => [call.at, n, 1, call]),
  ].sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
  let written = 0;
  for (const [at, , isCall, { at: _, ...what }] of places) {
    if (at > written) yield { type: "text", content: letters.slice(written, at).join("") };
    written = at;
    if (!isCall) yield { type: "thinking", content: what.text };
    else yield { type: "tool_call", ...what };
    if (isCall && "result" in what) yield { type: "tool_result", ...what };
  }
  if (written < letters.length) yield { type: "text", content: letters.slice(written).join("") };
}
