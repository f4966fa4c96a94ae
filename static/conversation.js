// The conversation that is shown: opening it, loading it, and seeing what others have changed in it.

import { answered, enter, showTitle } from "./address.js";
import { call, changed, json } from "./api.js";
import { forget, markCurrent, showConversations } from "./conversations.js";
import { $ } from "./dom.js";
import { closeDrawer } from "./drawers.js";
import { confirmed, follow, leave, tail } from "./following.js";
import * as messages from "./messages.js";
import { explain, say } from "./notice.js";
import { keepPlace, keepSight, toEnd } from "./scroll.js";
import { state } from "./state.js";
import { showTasks } from "./tasks.js";
import { showWelcome } from "./welcome.js";

const NEW = "New conversation";
const PAGE = 50; // messages that are loaded at a time
const where = (id, query = "") => `api/conversations/${id}${query}`;

/** Show a conversation, or a new one. */
export async function open(id, { replacing = false } = {}) {
  state.view += 1;
  leave();
  enter(id, { replacing });
  closeDrawer();
  markCurrent();
  await reload(id);
  if (id === null && !replacing) $("text").focus();
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
  return show(answer, (signal) => call("GET", where(id, "/stream?after=0"), { signal }));
}

/** Follow an answer; if what is stored in the end is another one, show that. */
export async function show(answer, request, options) {
  if (await follow(answer, request, options)) await reload(state.conversation, { aloud: true });
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
    if (error.status !== 404) {
      if (state.shown !== id) nothingShown();
      return explain(error, () => reload(id));
    }
    forget(id).catch(explain);
    await open(null, { replacing: true });
    return say("This conversation has been deleted.");
  }
  if (view !== state.view) return null; // another one was opened meanwhile
  showTitle(stored.title);
  state.earlier = stored.messages.length === PAGE;
  $("earlier").hidden = !state.earlier;
  messages.showAll(stored.messages);
  state.shown = id;
  showWelcome();
  toEnd();
  markCurrent();
  showConversations().catch(explain);
  showTasks().catch(explain);
  return messages.lastAnswer();
}

/** Show no message: those of another conversation are not for this one. */
function nothingShown() {
  messages.showAll([]);
  state.shown = undefined;
  state.earlier = false;
  $("earlier").hidden = true;
}

/** Show the messages before those that are shown. */
export async function showEarlier() {
  if (!state.earlier) return;
  state.earlier = false;
  const [view, id] = [state.view, state.conversation];
  const asked = json("GET", where(id, `?limit=${PAGE}&before=${messages.firstId()}`));
  const stored = await asked.catch((error) => {
    if (view === state.view) state.earlier = true; // it can be asked for again
    throw error;
  });
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
  if (state.shown === undefined) {
    state.shown = null; // until that has failed again
    return reload(id);
  }
  const gone = (error) => (error.status === 404 ? { gone: true } : Promise.reject(error));
  let stored = await changed(tail(id)).catch(gone);
  if (!stored) return;
  if (view !== state.view || state.stream) return state.etags.delete(tail(id)); // what has come is not shown
  if (stored.gone) return reload(id); // which says so
  showTitle(stored.title);
  const same = confirmed(stored);
  if (same && stored.messages.at(-1)?.status !== "streaming") return;
  stored = await json("GET", where(id, `?limit=${PAGE}`)).catch((error) => {
    state.etags.delete(tail(id)); // or the next look would find nothing new
    throw error;
  });
  if (view !== state.view || state.stream) return;
  keepPlace(() => messages.update(stored.messages));
  showWelcome();
  const answer = messages.lastAnswer();
  if (answer?.live) return join(id, answer);
  answered();
}
