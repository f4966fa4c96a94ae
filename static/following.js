// Following an answer that is being written, and stopping it.

import { answered, enter } from "./address.js";
import { changed } from "./api.js";
import { showConversations } from "./conversations.js";
import { $ } from "./dom.js";
import * as messages from "./messages.js";
import { explain, say } from "./notice.js";
import { keepPlace, toEnd } from "./scroll.js";
import { state } from "./state.js";
import { Stream } from "./stream.js";
import { showTasks } from "./tasks.js";
import { showWelcome } from "./welcome.js";

export const LIVE = "An answer is still being written. Wait for it, or stop it.";

/** The path of a conversation's last messages: a question and its answer. */
export const tail = (id) => `api/conversations/${id}?limit=2`;

/**
 * Read an answer to its end, and show it meanwhile; return whether what is stored is another one than what is shown,
 * and must be loaded.
 */
export async function follow(answer, open, { began = () => null, again = null } = {}) {
  let words = null;
  const stream = new Stream(open, {
    began() {
      words = began(stream.thread, stream.answer);
      const fresh = stream.thread !== state.conversation;
      if (fresh) enter(stream.thread, { replacing: true, carrying: true });
      state.shown = stream.thread;
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
    if (state.stream !== stream || end === "left") return false;
    if (end === "elsewhere") return true;
    if (end === "done") return !(await finished(answer, stream.thread));
    explain(end, again);
  } catch (error) {
    explain(error, stream.thread === null ? again : null); // what has begun is not to be sent again
  } finally {
    if (state.stream === stream) {
      state.stream = null;
      busy(false);
    }
  }
  return false;
}

/** An answer is over: show its end as it is stored, and what else has changed by it; return whether it is the same. */
async function finished(answer, thread) {
  answer.settle();
  if ($("notice").textContent.startsWith(LIVE)) say(null);
  showTasks().catch(explain);
  showConversations().catch(explain);
  const view = state.view;
  const stored = await changed(tail(thread)).catch(() => null); // then the next look sees it, or says what is wrong
  if (view !== state.view || thread !== state.conversation) return true;
  if (stored && !confirmed(stored)) return false;
  $("heard").textContent = answer.spoken;
  answered();
  return true;
}

/** Whether what is stored is what is shown; what is shown gets its ids and its end by it. */
export function confirmed(stored) {
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
export function leave() {
  const stream = state.stream;
  state.stream = null;
  stream?.leave();
  busy(false);
}
