// One answer that streams, over as many connections as it takes.
//
//   asking ──> live ──> over
//     ^  \      ^ |
//     |   v     | v
//     └── lost ─┘ lost        from `lost` the request is sent again, or the answer is joined where it was left

import { batches, call, json, Refusal, refused } from "./api.js";
import { wait } from "./dom.js";

export class Stream {
  state = "asking";
  thread = null; // the conversation, as soon as the server has named it
  answer = null; // the id of the answer
  tries = 0; // since the last sign of life
  #seen = 0; // events, the first ones of the answer
  #stopping = false; // the reader wants it stopped, as soon as the server has said that it has the message
  #control = new AbortController();

  /**
   * @param {(signal: AbortSignal) => Promise<Response>} open makes the first connection
   * @param {{began: () => void, events: (list: object[]) => void, turned: (state: string) => void}} hears what happens
   */
  constructor(open, hears) {
    this.open = open;
    this.hears = hears;
  }

  /**
   * Read the answer to its end; return how that came:
   * "done"; "elsewhere", if what is stored says more than this stream; "left", if nobody wants it any more; or the
   * Refusal.
   */
  async read() {
    while (this.state !== "over") {
      try {
        const end = await this.#connect();
        if (end) return this.#turn("over", end);
      } catch (error) {
        if (error.name === "AbortError") break;
        const final = error instanceof Refusal && !error.passes;
        if (this.thread !== null && final) return this.#turn("over", "elsewhere");
        if (this.thread === null && error instanceof Refusal) return this.#turn("over", error);
        if (!(error instanceof Refusal || error instanceof TypeError)) throw error; // `fetch` throws a TypeError
      }
      if (this.state === "over") break;
      this.tries += 1;
      this.#turn("lost");
      await wait(Math.min(250 * 2 ** this.tries, 5000));
    }
    return "left";
  }

  /** Make one connection and read it; return how the answer ended, or nothing if the connection broke. */
  async #connect() {
    const response = await (this.thread === null ? this.open(this.#control.signal) : this.#join());
    if (!response.ok) throw await refused(response);
    const id = response.headers.get("X-Message-Id");
    if (response.status === 204 || (this.answer !== null && this.answer !== id)) {
      if (this.thread === null) await wait(500); // its end is not stored yet
      return "elsewhere";
    }
    if (this.thread === null) {
      this.thread = Number(response.headers.get("X-Thread-Id"));
      this.answer = id;
      this.hears.began();
    }
    this.#turn("live");
    if (this.#stopping) await this.stop();
    for await (const events of batches(response)) {
      this.tries = 0;
      const last = events.at(-1).type === "done";
      if (last) events.pop();
      this.#seen += events.length;
      this.hears.events(events);
      if (last) return "done";
    }
    return null;
  }

  #join() {
    const path = `api/conversations/${this.thread}/stream?after=${this.#seen}`;
    return call("GET", path, { signal: this.#control.signal });
  }

  #turn(next, result) {
    this.state = next;
    this.hears.turned(next);
    return result;
  }

  /** Stop the answer. */
  async stop() {
    if (this.thread === null && this.tries > 0) return this.leave(); // whether the message has arrived, who knows
    this.#stopping = this.state !== "live";
    if (this.#stopping) return;
    try {
      await json("POST", `api/conversations/${this.thread}/stop`);
    } catch (error) {
      if (error.status !== 409) throw error; // 409: it was over before
    }
  }

  /** Read no further: the answer goes on without us. */
  leave() {
    if (this.state === "over") return;
    this.#turn("over");
    this.#control.abort();
  }
}
