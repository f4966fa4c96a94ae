// The page: conversations, the chat, the tasks. It speaks the simple dialect of POST /chatkit and the REST API, and
// shows what both promise: an answer goes on without its reader, and a reader finds its way back into it.

import { render } from "./markdown.js";
import { authorization, signedIn, signIn, signInAgain } from "./session.js";

const BASE = new URL("..", import.meta.url); // also right where the app is mounted under a prefix
const $ = (id) => document.getElementById(id);
const [text, notice, messages, scroller] = ["text", "notice", "messages", "scroller"].map($);

const SUGGESTIONS = ["add buy milk, call Ann", "show my open tasks", "complete the first one", "what can you do?"];
const LIVE = "An answer is still being written. Wait for it, or stop it.";
const SILENCE = 45_000; // ms: the server says something every 15 s, so this connection is dead
const ENDINGS = {
  stopped: "You stopped this answer.",
  interrupted: "This answer was interrupted.",
  failed: "This answer failed.",
};

let conversation = null; // the id of the one that is shown; null for one that is not begun yet
let following = null; // the AbortController of the stream that is being read
let loading = Promise.resolve(); // the conversation that is being loaded
let turn = 0; // counts what is shown: what comes late for something else is dropped
let unsent = null; // a message that the server has not confirmed: sent again it has the same key, and is one turn
let offline = false;

// ---- the API ----

/** A refusal of the server's, in its own words. */
class Refusal extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function call(method, path, { body, headers = {}, signal } = {}) {
  await signedIn;
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  return fetch(new URL(path, BASE), {
    method,
    signal,
    headers: { ...authorization(), ...json, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
}

async function refused(response) {
  const body = await response.json().catch(() => null);
  const words = body?.detail ?? `The server cannot be reached: what answers for it says ${response.status}.`;
  return new Refusal(response.status, words, response.headers.get("Retry-After"));
}

async function json(method, path, body) {
  const response = await call(method, path, { body });
  if (!response.ok) throw await refused(response);
  return response.json();
}

/** Yield the events of a stream, each with whether it is the last. Ends early if the connection breaks. */
async function* frames(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, silence] = ["", null];
  for (;;) {
    silence = setTimeout(() => reader.cancel(), SILENCE);
    const { value, done } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") yield { type: "done" };
      else if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
    }
  }
}

function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// ---- small tools ----

/** Make an element: properties, then children. Text is only ever text. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function button(label, onclick, properties = {}) {
  return make("button", { type: "button", onclick, ...properties }, label);
}

/** Make a drawing of lines, 16 by 16. */
function icon(lines) {
  const [svg, path] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  svg.setAttribute("viewBox", "0 0 16 16");
  path.setAttribute("d", lines);
  svg.append(path);
  return svg;
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Say something beside the text field, with a way to try again if there is one. */
function say(words, again = null) {
  if (words) closePanels(); // it would be behind a drawer
  if (notice.contains(document.activeElement)) text.focus();
  keepPlace(() => {
    notice.hidden = !words;
    notice.firstElementChild.textContent = words ?? "";
    const retry = notice.lastElementChild;
    retry.hidden = !again;
    retry.onclick = again;
  });
}

/** Say what went wrong with a request. */
function explain(error, again = null) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refusal)) return say("The server cannot be reached. Is it running?", again);
  if (error.status === 401) return signInAgain();
  const wait = error.retryAfter ? ` You can try again in ${error.retryAfter} seconds.` : "";
  say(error.message + wait, [409, 429, 502, 503, 504].includes(error.status) ? again : null);
}

// ---- one answer ----

/** Shows one answer, from its events: the same for one that streams and for one that is stored. */
class Answer {
  constructor(question) {
    this.question = question;
    this.reset();
    this.element = make("li", { className: "answer" }, this.body);
  }

  reset() {
    const body = make("div", { className: "body" });
    this.body?.replaceWith(body);
    this.body = body;
    this.text = null; // the text that is being written: its element and what it says
    this.said = "";
    this.steps = new Map();
    this.status = make("p", { className: "status" }, "");
    this.body.append(this.status);
  }

  add(event) {
    if (event.type === "text") this.write(event.content);
    else if (event.type === "thinking") this.think(event);
    else if (event.type === "tool_call") this.begin(event);
    else if (event.type === "tool_result") this.finish(event);
    else if (event.type === "error") this.fail(event.message);
  }

  write(content) {
    this.said += content;
    this.status.hidden = true;
    this.thought = "";
    if (!this.text) {
      this.text = { element: make("div", { className: "text" }), content: "" };
      this.body.insertBefore(this.text.element, this.status);
    }
    this.text.content += content;
    const writing = this.text;
    this.drawn ??= requestAnimationFrame(() => {
      this.drawn = null;
      keepPlace(() => render(writing.element, writing.content));
    });
  }

  /** Draw what is written, now. */
  settle() {
    if (this.drawn) cancelAnimationFrame(this.drawn);
    this.drawn = null;
    if (this.text) keepPlace(() => render(this.text.element, this.text.content));
    this.text = null;
  }

  think({ content, thread_id: ours }) {
    this.settle();
    keepPlace(() => {
      this.status.hidden = false;
      this.thought = ours === undefined ? (this.thought ?? "") + content : "";
      this.status.textContent = this.thought.trim().split("\n").at(-1) || "Thinking…";
    });
  }

  begin({ id, name, args }) {
    this.settle();
    this.thought = "";
    const state = make("span", { className: "state" }, "running");
    const step = make("details", { className: "step running" });
    step.append(
      make("summary", {}, make("span", { className: "name" }, sentence(name, args)), state),
      ...unfolded("Arguments", args),
    );
    this.steps.set(id, { step, state });
    keepPlace(() => this.body.insertBefore(step, this.status));
  }

  finish({ id, result }) {
    const { step, state } = this.steps.get(id) ?? {};
    if (!step) return;
    const failed = result?.success === false;
    step.classList.replace("running", failed ? "failed" : "done");
    state.textContent = failed ? "failed" : "done";
    step.append(...unfolded("Result", result));
  }

  fail(words) {
    this.settle();
    this.mark(words, "failed");
  }

  /** Say at the end how the answer ended, with a button to ask again. */
  mark(words, kind) {
    this.settle();
    this.status.hidden = true;
    for (const { step, state } of this.steps.values()) {
      if (step.classList.replace("running", "failed")) state.textContent = "cut off";
    }
    this.body.querySelector(".mark")?.remove();
    const again = button("Try again", () => (following ? say(LIVE) : send(this.question)));
    keepPlace(() => this.body.append(make("p", { className: `mark ${kind}` }, make("span", {}, words), again)));
  }

  /** The answer is over, in this state, and for this reason if there is one. */
  end({ status, error }) {
    this.settle();
    this.status.hidden = true;
    if (ENDINGS[status]) this.mark(error ?? ENDINGS[status], status);
  }

  /** What a screen reader is told when the answer is over: what was said, and how it ended. */
  get spoken() {
    const parts = [...this.body.querySelectorAll(".text, .mark > span")].map((part) => part.innerText);
    return parts.join(" ") || "The answer has no text.";
  }
}

function unfolded(label, value) {
  return [make("p", { className: "label" }, label), make("pre", { tabIndex: 0 }, JSON.stringify(value, null, 2))];
}

/** What a tool call does, in a few words. */
function sentence(name, args) {
  const words = name.replaceAll("_", " ");
  const main = args?.title ?? args?.task_id ?? (args?.status === "all" ? "" : args?.status) ?? "";
  return words[0].toUpperCase() + words.slice(1) + (main === "" ? "" : `: ${main}`);
}

/** The events that a stored answer is made of. */
function* eventsOf(message) {
  let written = 0;
  for (const { at, ...call } of message.tool_calls) {
    const before = [...message.content].slice(written, at).join(""); // `at` counts characters, not UTF-16 units
    if (before) yield { type: "text", content: before };
    yield { type: "tool_call", ...call };
    if ("result" in call) yield { type: "tool_result", ...call };
    written = at;
  }
  const rest = [...message.content].slice(written).join("");
  if (rest) yield { type: "text", content: rest };
}

let atEnd = true; // whether the page stays at the end of the conversation, as the reader wants it
let place = { top: 0, end: 0 }; // where it was scrolled to when we last looked, and where its end was

/** Look where the reader has gone: who goes up leaves the end at once, who comes down to it stays there again. */
function look() {
  const [top, end] = [scroller.scrollTop, scroller.scrollHeight - scroller.clientHeight];
  if (top < place.top && end >= place.end) atEnd = false; // what has become shorter goes up by itself
  else if (end - top <= 2 && (top > place.top || end <= 2)) atEnd = scroller.clientHeight > 0 || atEnd;
  place = { top, end };
}

function toEnd() {
  scroller.scrollTop = scroller.scrollHeight;
  look();
  atEnd = true;
}

/** Change the conversation; stay at its end if the reader is there, and nowhere else. */
function keepPlace(change) {
  look();
  change();
  if (atEnd) toEnd();
}

// ---- sending and following ----

/** Send a message. The typed text stays where it is until the server has taken it. */
async function send(message) {
  if (following || !message.trim()) return;
  const mine = turn;
  await loading; // or what comes before it would be missing
  if (following || mine !== turn) return following && say(LIVE);
  say(null);
  if (unsent?.message !== message || unsent.conversation !== conversation) {
    unsent = { message, conversation, key: newKey() };
  }
  const { key } = unsent;
  const body = { message, ...(conversation === null ? {} : { thread_id: conversation }) };
  const answer = new Answer(message);
  const began = (thread) => {
    unsent = null;
    if (text.value.trim() === message.trim()) text.value = "";
    const other = conversation !== null && thread !== conversation;
    if (other) messages.replaceChildren();
    $("welcome").hidden = true;
    showQuestion(message);
    messages.append(answer.element);
    toEnd();
    return other ? "That conversation has been deleted. This is a new one." : null;
  };
  await follow(answer, (signal) => call("POST", "chatkit", { body, headers: { "Idempotency-Key": key }, signal }), {
    began,
    again: () => send(message),
  });
}

function showQuestion(message) {
  messages.append(make("li", { className: "question" }, make("div", { className: "body", dir: "auto" }, message)));
}

/**
 * Read an answer to its end, over as many connections as it takes.
 *
 * `open` makes the first connection; after a break the answer is joined where it was left.
 */
async function follow(answer, open, { began = () => null, again = null } = {}) {
  const control = (following = new AbortController());
  let [seen, thread, tries, id] = [0, null, 0, null];
  control.unheard = () => again !== null && tries > 0 && thread === null; // whether the message arrived, who knows
  busy(true);
  const join = (signal) => call("GET", `api/conversations/${thread}/stream?after=${seen}`, { signal });
  try {
    for (let next = open; ; next = thread === null ? open : join) {
      try {
        const response = await next(control.signal);
        if (following !== control) return;
        if (!response.ok) throw await refused(response);
        if (response.status === 204 || (id !== null && id !== response.headers.get("X-Message-Id"))) {
          if (thread === null) await wait(500); // its end is not stored yet
          return await reload(thread ?? conversation, { aloud: true });
        }
        let words = null;
        if (thread === null) {
          thread = Number(response.headers.get("X-Thread-Id"));
          id = response.headers.get("X-Message-Id");
          words = began(thread);
          const fresh = thread !== conversation;
          enter(thread);
          if (fresh) showConversations();
        }
        control.live = true;
        say(words);
        if (control.stopped) stop();
        for await (const event of frames(response)) {
          tries = 0;
          if (event.type === "done") return await finished(answer, thread);
          seen += 1;
          answer.add(event);
          if (event.type === "tool_result") showTasks(event.result?.task_id);
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        const passes = !(error instanceof Refusal) || [502, 503, 504].includes(error.status);
        if (thread !== null && !passes) return await reload(thread);
        if (thread === null && error instanceof Refusal) return explain(error, again);
      }
      control.live = false;
      tries += 1;
      if (tries > 1) say("The connection was lost. Trying to find back…");
      await wait(Math.min(250 * 2 ** tries, 5000));
      if (control.signal.aborted) return;
    }
  } catch (error) {
    explain(error, again);
  } finally {
    if (following === control) {
      following = null;
      busy(false);
    }
  }
}

async function finished(answer, thread) {
  answer.settle();
  if (notice.textContent.startsWith(LIVE)) say(null);
  showTasks();
  showConversations();
  const { messages: stored } = await json("GET", `api/conversations/${thread}`);
  answer.end(stored.at(-1));
  if (thread === conversation) last = stored.at(-1).id;
  $("heard").textContent = answer.spoken;
}

async function stop() {
  if (!following) return;
  if (following.unheard()) return leave();
  if (!following.live && !following.stopped) {
    following.stopped = true; // as soon as the server has said that it has the message
    return;
  }
  try {
    await json("POST", `api/conversations/${conversation}/stop`);
  } catch (error) {
    if (error.status !== 409) explain(error); // 409: it was over before
  }
}

function busy(is) {
  if ([$("send"), $("stop")].includes(document.activeElement)) text.focus(); // or it would be lost
  $("send").hidden = is;
  $("stop").hidden = !is;
  messages.setAttribute("aria-busy", is);
}

/** Leave the answer that is being read: it goes on without us. */
function leave() {
  following?.abort();
  following = null;
  busy(false);
}

// ---- conversations ----

/** Remember which conversation is shown, here and in the address. */
function enter(id) {
  conversation = id;
  history.replaceState(null, "", id === null ? location.pathname : `#conversation=${id}`);
  markCurrent();
}

async function open(id) {
  turn += 1;
  leave();
  enter(id);
  closePanels();
  await reload(id);
}

/** Show a conversation as it is stored, and join its answer if that is live. */
async function reload(id, { aloud = false } = {}) {
  const loaded = load(id);
  loading = loaded.catch(() => null);
  const answer = await loaded;
  if (!answer) return;
  if (answer.over) {
    if (aloud) $("heard").textContent = answer.spoken;
    return;
  }
  leave();
  await follow(answer, (signal) => call("GET", `api/conversations/${id}/stream?after=0`, { signal }));
}

/** Load a conversation and show it; return its last answer, if it is still the one that is shown. */
async function load(id) {
  const mine = ++turn;
  say(null);
  let stored = { title: "New conversation", messages: [] };
  try {
    if (id !== null) stored = await json("GET", `api/conversations/${id}`);
  } catch (error) {
    if (mine !== turn) return null;
    if (error.status !== 404) return explain(error, () => reload(id));
    startNew();
    return say("This conversation has been deleted.");
  }
  if (mine !== turn) return null; // another one was opened meanwhile
  $("title").textContent = stored.title;
  $("welcome").hidden = stored.messages.length > 0;
  messages.replaceChildren();
  let [question, answer] = ["", null];
  for (const message of stored.messages) {
    if (message.role === "user") showQuestion((question = message.content));
    else {
      answer = new Answer(question);
      messages.append(answer.element);
      if (message.status === "streaming") continue;
      answer.over = true;
      for (const event of eventsOf(message)) answer.add(event);
      answer.end(message);
    }
  }
  last = stored.messages.at(-1)?.id ?? null;
  toEnd();
  showConversations();
  showTasks();
  return answer;
}

let last = null; // the id of the last message that was loaded

/** Look again at what other tabs may have changed. */
async function refresh() {
  showTasks();
  showConversations();
  if (following || conversation === null) return;
  const [mine, id] = [turn, conversation];
  const stored = await json("GET", `api/conversations/${id}`).catch((error) => ({ gone: error.status === 404 }));
  if (mine !== turn || following) return;
  if (stored.gone || (stored.messages && (stored.messages.at(-1)?.id ?? null) !== last)) await reload(id);
}

function startNew() {
  turn += 1;
  leave();
  enter(null);
  closePanels();
  reload(null);
  text.focus();
}

async function showConversations() {
  const listed = await newest("api/conversations?limit=200");
  if (!listed) return;
  update($("conversation-list"), listed.map(({ id, title }) => ({ id, title })), conversationItem);
  const shown = listed.find(({ id }) => id === conversation);
  if (shown) $("title").textContent = shown.title;
  markCurrent();
}

const asked = {}; // by path: how often it was asked for

/** Get a list; nothing if it failed, or if it was asked for again meanwhile. */
async function newest(path) {
  const turn = (asked[path] = (asked[path] ?? 0) + 1);
  try {
    const listed = await json("GET", path);
    return turn === asked[path] ? listed : null;
  } catch (error) {
    if (path === "api/tasks" && error.status === 404) return hideTasks();
    return explain(error);
  }
}

/** Make a list show these things, and leave alone what shows them already: focus and animations stay. */
function update(list, things, item) {
  const wanted = new Map(things.map((thing) => [String(thing.id), JSON.stringify(thing)]));
  for (const old of [...list.children]) {
    const atWork = old.querySelector(".edit, .confirm") && wanted.has(old.dataset.id); // somebody is: that can wait
    if (atWork) wanted.set(old.dataset.id, old.source);
    else if (wanted.get(old.dataset.id) !== old.source) old.stale = true;
  }
  const kept = new Map([...list.children].filter((old) => !old.stale).map((old) => [old.dataset.id, old]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const [place, id] = [focused?.dataset.place, focused?.closest("li").dataset.id];
  for (const old of [...list.children]) if (old.stale) old.remove();
  things.forEach((thing, n) => {
    const element = kept.get(String(thing.id)) ?? item(thing);
    element.dataset.id = thing.id;
    element.source = wanted.get(String(thing.id));
    if (list.children[n] !== element) list.insertBefore(element, list.children[n] ?? null);
  });
  if (focused && document.activeElement !== focused) {
    list.querySelector(`[data-id="${id}"] [data-place="${place}"]`)?.focus();
  }
}

function conversationItem({ id, title }) {
  const item = make("li");
  const name = button(title, () => open(id), { className: "name", title, dir: "auto" });
  const rename = (value) => renameConversation(id, value);
  item.append(name, actions(item, title, rename, () => confirmDelete(item, title, () => deleteConversation(id))));
  name.dataset.place = "name";
  return item;
}

/** The buttons that rename and delete what an item shows. */
function actions(item, title, rename, remove) {
  const [first, second] = [
    button(icon("M10.5 2.5l3 3-8 8h-3v-3z"), () => edit(item, title, rename), { ariaLabel: `Rename ${title}` }),
    button(icon("M2.5 4h11M6 4V2h4v2M4 4l.7 10h6.6L12 4"), remove, { ariaLabel: `Delete ${title}` }),
  ];
  [first.title, second.title] = ["Rename", "Delete"];
  [first.dataset.place, second.dataset.place] = ["rename", "delete"];
  return make("span", { className: "actions" }, first, second);
}

function markCurrent() {
  for (const item of $("conversation-list").children) {
    if (Number(item.dataset.id) === conversation) item.setAttribute("aria-current", "true");
    else item.removeAttribute("aria-current");
  }
}

async function renameConversation(id, title) {
  await json("PATCH", `api/conversations/${id}`, { title });
}

async function deleteConversation(id) {
  await json("DELETE", `api/conversations/${id}`);
  if (id === conversation) return startNew();
  await showConversations();
  $("new").focus();
}

/** Replace an item's content by a field; Enter keeps what it says, Esc leaves all as it was. */
function edit(item, value, keep) {
  const field = make("input", { value, maxLength: 200, ariaLabel: `New name for ${value}` });
  const form = make("form", { className: "edit" }, field, make("button", {}, "Save"));
  const restore = replace(item, form);
  form.onsubmit = (event) => {
    event.preventDefault();
    const wanted = field.value.trim();
    if (!wanted || wanted === value) return restore();
    keep(wanted).then(restore, explain);
  };
  field.select();
}

function confirmDelete(item, title, remove) {
  const question = make("div", { className: "confirm" }, make("span", {}, `Delete “${title}”?`));
  const restore = replace(item, question);
  const no = button("Keep", () => restore());
  const yes = button("Delete", () => (restore(), remove().catch(explain)), { className: "danger" });
  question.append(yes, no);
  no.focus();
}

/** Put something in the place of an item's content; Esc, or what is returned, puts the content back. */
function replace(item, content) {
  const [before, focused] = [[...item.childNodes], document.activeElement];
  const restore = () => {
    item.replaceChildren(...before);
    focused?.focus();
    showTasks();
    showConversations();
  };
  content.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    restore();
  };
  item.replaceChildren(content);
  return restore;
}

// ---- tasks ----

/** The host of this server serves its tasks elsewhere. */
function hideTasks() {
  $("tasks").hidden = document.querySelector('[data-open="tasks"]').hidden = true;
}

const changed = new Set(); // the tasks that have just changed

/** Show the tasks as they are, and mark the one that has just changed. */
async function showTasks(id = null) {
  if (id !== null) changed.add(id);
  const tasks = await newest("api/tasks");
  if (!tasks) return;
  update($("task-list"), tasks, taskItem);
  $("no-tasks").hidden = tasks.length > 0;
}

function taskItem({ id, title, completed }) {
  const item = make("li", { className: completed ? "completed" : "" });
  if (changed.delete(id)) {
    item.classList.add("changed");
    setTimeout(() => item.classList.remove("changed"), 2500);
  }
  const change = (changes) => json("PATCH", `api/tasks/${id}`, changes).then(() => showTasks(id));
  const box = make("input", { type: "checkbox", checked: completed });
  box.dataset.place = "box";
  box.onchange = () => change({ completed: box.checked }).catch((error) => ((box.checked = completed), explain(error)));
  const rename = (value) => change({ title: value });
  const remove = () => deleteTask(id).catch(explain);
  item.append(make("label", {}, box, make("span", { dir: "auto" }, title)), actions(item, title, rename, remove));
  return item;
}

async function deleteTask(id) {
  await json("DELETE", `api/tasks/${id}`);
  await showTasks();
  ($("task-list").querySelector("input") ?? $("task-title")).focus();
}

async function addTask(event) {
  event.preventDefault();
  const field = $("task-title");
  const title = field.value;
  if (!title.trim()) return;
  field.value = ""; // at once: Enter may come twice
  try {
    const { id } = await json("POST", "api/tasks", { title });
    await showTasks(id);
  } catch (error) {
    field.value ||= title;
    explain(error);
  }
}

// ---- panels (on narrow screens they are drawers) ----

function openPanel(name) {
  document.body.dataset.panel = name;
  $("backdrop").hidden = false;
  for (const other of document.querySelectorAll("main, .panel")) other.inert = other.id !== name;
  document.querySelectorAll("[data-open]").forEach((opener) => expand(opener, opener.dataset.open === name));
  $(name).querySelector("button, input").focus();
}

function closePanels() {
  const name = document.body.dataset.panel;
  if (!name) return;
  delete document.body.dataset.panel;
  $("backdrop").hidden = true;
  for (const other of document.querySelectorAll("main, .panel")) other.inert = false;
  document.querySelectorAll("[data-open]").forEach((opener) => expand(opener, false));
  document.querySelector(`[data-open="${name}"]`).focus();
}

function expand(opener, is) {
  opener.setAttribute("aria-expanded", is);
}

// ---- the start ----

/**
 * Do nothing at a key that is the input method's, which makes words of several keys: its Enter takes a word, its Esc
 * drops one. Safari sends that Enter when the composition is over already, and only 229 tells it from another one.
 */
function leaveToInputMethod(event) {
  if (!event.isComposing && event.keyCode !== 229) return;
  event.stopPropagation();
  if (event.key === "Enter") event.preventDefault(); // or it submits the field's form, or makes a new line
}

function listen() {
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    if (following) say(LIVE);
    else send(text.value);
  };
  document.addEventListener("keydown", leaveToInputMethod, true);
  text.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    $("composer").requestSubmit();
  };
  document.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    if (document.body.dataset.panel) closePanels();
    else stop();
  };
  $("stop").onclick = () => stop().then(() => text.focus());
  $("new").onclick = startNew;
  $("add-task").onsubmit = addTask;
  $("backdrop").onclick = closePanels;
  document.querySelectorAll("[data-open]").forEach((b) => (b.onclick = () => openPanel(b.dataset.open)));
  document.querySelectorAll("[data-close]").forEach((b) => (b.onclick = closePanels));
  document.onvisibilitychange = () => document.hidden || refresh();
  window.onhashchange = () => location.reload(); // a link with a token, or to another conversation, was opened here
  window.matchMedia("(max-width: 60rem)").onchange = closePanels;
  scroller.onscroll = look;
  new ResizeObserver(() => keepPlace(() => null)).observe(scroller);
}

async function showModel() {
  const { model, offline: is } = await json("GET", "api/model");
  offline = is;
  $("model").textContent = offline ? "Offline demo model: a table of phrases, not an AI" : `Model: ${model}`;
  if (!offline) return;
  $("welcome-text").textContent =
    "The offline demo model answers here. It is a small table of phrases and not an AI. Four things to try:";
  $("suggestions").replaceChildren(...SUGGESTIONS.map((words) => button(words, () => (text.focus(), send(words)))));
}

async function main() {
  listen();
  const words = await signIn();
  conversation = Number(new URLSearchParams(location.hash.slice(1)).get("conversation")) || null;
  text.focus();
  const loaded = reload(conversation);
  if (words) say(words);
  await Promise.all([showModel().catch(explain), loaded]);
}

main().catch(explain);
