// The chat: sending, following an answer, and opening conversations.

import { answered, enter, saveDraft, showTitle } from "./address.js";
import { Answer } from "./answer.js";
import { call, changed, json, newKey } from "./api.js";
import { markCurrent, showConversations } from "./conversations.js";
import { $ } from "./dom.js";
import { closeDrawer } from "./drawers.js";
import * as messages from "./messages.js";
import { explain, say } from "./notice.js";
import { keepPlace, keepSight, toEnd } from "./scroll.js";
import { state } from "./state.js";
import { Stream } from "./stream.js";
import { showTasks } from "./tasks.js";
import { showWelcome, used } from "./welcome.js";

export const LIVE = "An answer is still being written. Wait for it, or stop it.";
const NEW = "New conversation";
const TIMEZONE = Intl.DateTimeFormat().resolvedOptions().timeZone; // what "tomorrow" means
const PAGE = 50; // messages that are loaded at a time
const where = (id, query = "") => `api/conversations/${id}${query}`;
const tail = (id) => where(id, "?limit=2");

/** Send a message. The typed text stays where it is until the server has taken it. */
export async function send(message) {
  if (!message.trim()) return;
  const view = state.view;
  await state.loading; // or what comes before it would be missing
  if (state.stream) return say(LIVE);
  if (view !== state.view) return;
  say(null);
  if (state.unsent?.message !== message || state.unsent.conversation !== state.conversation) {
    state.unsent = { message, conversation: state.conversation, key: newKey() };
  }
  const headers = { "Idempotency-Key": state.unsent.key };
  const body = { message, timezone: TIMEZONE, ...(state.conversation === null ? {} : { thread_id: state.conversation }) };
  const answer = new Answer();
  const began = (thread) => {
    state.unsent = null;
    const other = state.conversation !== null && thread !== state.conversation;
    if (other) messages.showAll([]);
    if ($("text").value.trim() === message.trim()) $("text").value = "";
    saveDraft();
    used(message);
    messages.append(message, answer);
    return other ? "That conversation has been deleted. This is a new one." : null;
  };
  await follow(answer, (signal) => call("POST", "chatkit", { body, headers, signal }), { began, again: () => send(message) });
}

/** Ask a question anew, in other words if there are any: another answer takes the place of what came after it. */
export async function ask(element, content = element.said) {
  if (state.stream) return say(LIVE);
  const words = content === element.said ? {} : { message: content };
  const body = { message_id: Number(element.dataset.id), timezone: TIMEZONE, ...words };
  const headers = { "Idempotency-Key": newKey() };
  const answer = new Answer();
  const path = where(state.conversation, "/retry");
  await follow(answer, (signal) => call("POST", path, { body, headers, signal }), {
    began: () => messages.append(content, answer, { replacing: element }),
    again: () => ask(element, content),
  });
}

/** Read an answer to its end, and show it meanwhile. */
async function follow(answer, open, { began = () => null, again = null } = {}) {
  let words = null;
  const stream = new Stream(open, {
    began() {
      words = began(stream.thread);
      const fresh = stream.thread !== state.conversation;
      if (fresh) enter(stream.thread, { replacing: true });
      showWelcome();
      toEnd();
      if (fresh) showConversations().catch(explain);
    },
    events(events) {
      answer.add(events);
      for (const { type, name, result } of events) {
        if (type !== "tool_result") continue;
        showTasks({ id: result?.task_id ?? null, inSight: name === "add_task" }).catch(explain);
      }
    },
    turned(is) {
      if (is === "live") say(words);
      else if (is === "lost" && stream.tries > 1) say("The connection was lost. Trying to find back…");
    },
  });
  state.stream = stream;
  busy(true);
  try {
    const end = await stream.read();
    if (state.stream !== stream || end === "left") return;
    if (end === "done") await finished(answer, stream.thread);
    else if (end !== "elsewhere") return explain(end, again);
    if (end === "elsewhere") await reload(stream.thread ?? state.conversation, { aloud: true });
  } catch (error) {
    explain(error, again);
  } finally {
    if (state.stream === stream) busy((state.stream = null) !== null);
  }
}

/** An answer is over: show it as it is stored, and what else has changed by it. */
async function finished(answer, thread) {
  answer.settle();
  if ($("notice").textContent.startsWith(LIVE)) say(null);
  showTasks().catch(explain);
  showConversations().catch(explain);
  const view = state.view;
  const stored = await changed(tail(thread));
  if (view !== state.view || thread !== state.conversation) return;
  if (stored && !(await confirmed(stored))) return reload(thread, { aloud: true });
  $("heard").textContent = answer.spoken;
  answered();
}

/** Whether what is stored is what is shown; what is shown gets its ids and its end by it. */
async function confirmed(stored) {
  let same = true;
  keepPlace(() => (same = messages.confirm(stored.messages)));
  return same;
}

export async function stop() {
  await state.stream?.stop().catch(explain);
}

function busy(is) {
  if ([$("send"), $("stop")].includes(document.activeElement)) $("text").focus(); // or it would be lost
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("messages").setAttribute("aria-busy", is);
  showWelcome();
}

/** Leave the answer that is being read: it goes on without us. */
function leave() {
  const stream = state.stream;
  state.stream = null;
  stream?.leave();
  busy(false);
}

/** Show a conversation, or a new one. */
export async function open(id, { replacing = false } = {}) {
  state.view += 1;
  leave();
  enter(id, { replacing });
  closeDrawer();
  markCurrent();
  await reload(id);
  if (id === null) $("text").focus();
}

/** Show a conversation as it is stored, and join its answer if that is live. */
async function reload(id, { aloud = false } = {}) {
  const loaded = load(id);
  state.loading = loaded.catch(() => null);
  const answer = await loaded;
  if (aloud && answer && !answer.live) $("heard").textContent = answer.spoken;
  if (answer?.live) await join(id, answer);
}

function join(id, answer) {
  leave();
  return follow(answer, (signal) => call("GET", where(id, "/stream?after=0"), { signal }));
}

/** Load a conversation and show it; return its last answer, if it is still the one that is shown. */
async function load(id) {
  const view = ++state.view;
  say(null);
  let stored = { title: NEW, messages: [] };
  try {
    if (id !== null) stored = await json("GET", where(id, `?limit=${PAGE}`));
  } catch (error) {
    if (view !== state.view) return null;
    if (error.status !== 404) return explain(error, () => reload(id));
    await open(null, { replacing: true });
    return say("This conversation has been deleted.");
  }
  if (view !== state.view) return null; // another one was opened meanwhile
  showTitle(stored.title);
  state.earlier = stored.messages.length === PAGE;
  $("earlier").hidden = !state.earlier;
  messages.showAll(stored.messages);
  showWelcome();
  toEnd();
  markCurrent();
  showConversations().catch(explain);
  showTasks().catch(explain);
  return messages.lastAnswer();
}

/** Show the messages before those that are shown. */
export async function showEarlier() {
  if (!state.earlier) return;
  state.earlier = false;
  const [view, id] = [state.view, state.conversation];
  const stored = await json("GET", where(id, `?limit=${PAGE}&before=${messages.firstId()}`));
  if (view !== state.view) return;
  state.earlier = stored.messages.length === PAGE;
  keepSight(() => {
    messages.showEarlier(stored.messages);
    $("earlier").hidden = !state.earlier;
  });
}

/** Look at what others may have changed in the conversation that is shown, and follow what is live in it. */
export async function refreshConversation() {
  if (state.stream || state.conversation === null) return;
  const [view, id] = [state.view, state.conversation];
  const gone = (error) => (error.status === 404 ? { gone: true } : Promise.reject(error));
  let stored = await changed(tail(id)).catch(gone);
  if (!stored || view !== state.view || state.stream) return;
  if (stored.gone) return reload(id); // which says so
  showTitle(stored.title);
  const same = await confirmed(stored);
  if (same && stored.messages.at(-1)?.status !== "streaming") return;
  stored = await json("GET", where(id, `?limit=${PAGE}`));
  if (view !== state.view || state.stream) return;
  keepPlace(() => messages.update(stored.messages));
  showWelcome();
  const answer = messages.lastAnswer();
  if (answer?.live) return join(id, answer);
  answered();
}
