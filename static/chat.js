// What the user says: sending a message, and asking the last one anew.

import { Answer } from "./answer.js";
import { call, newKey } from "./api.js";
import { show } from "./conversation.js";
import { $ } from "./dom.js";
import { saveDraft } from "./drafts.js";
import { LIVE } from "./following.js";
import * as messages from "./messages.js";
import { say } from "./notice.js";
import { signedIn } from "./session.js";
import { state } from "./state.js";
import { used } from "./welcome.js";

const TIMEZONE = Intl.DateTimeFormat().resolvedOptions().timeZone; // what "tomorrow" means

/** Send a message. The typed text stays where it is until the server has taken it. */
export async function send(message) {
  if (!message.trim()) return;
  await signedIn;
  const view = state.view;
  await state.loading; // or what comes before it would be missing
  if (state.stream) return say(LIVE);
  if (view !== state.view) return;
  say(null);
  if (state.unsent?.message !== message || state.unsent.conversation !== state.conversation) {
    state.unsent = { message, conversation: state.conversation, key: newKey() };
  }
  const headers = { "Idempotency-Key": state.unsent.key };
  const thread = state.conversation === null ? {} : { thread_id: state.conversation };
  const body = { message, timezone: TIMEZONE, ...thread };
  const answer = new Answer();
  const began = (id, answerId) => {
    state.unsent = null;
    const other = state.conversation !== null && id !== state.conversation;
    if (other) messages.showAll([]);
    if ($("text").value.trim() === message.trim()) $("text").value = "";
    saveDraft();
    used(message);
    if (!messages.isShown(answerId)) messages.append(message, answer); // it is, if this was sent and left before
    return other ? "That conversation has been deleted. This is a new one." : null;
  };
  const request = (signal) => call("POST", "chatkit", { body, headers, signal });
  await show(answer, request, { began, again: () => send(message) });
}

/** Ask a question anew, in other words if there are any: another answer takes the place of what came after it. */
export async function ask(element, content = element.said) {
  if (state.stream) return say(LIVE);
  const words = content === element.said ? {} : { message: content };
  const body = { message_id: Number(element.dataset.id), timezone: TIMEZONE, ...words };
  const headers = { "Idempotency-Key": newKey() };
  const answer = new Answer();
  const request = (signal) => call("POST", `api/conversations/${state.conversation}/retry`, { body, headers, signal });
  await show(answer, request, {
    began() {
      messages.append(content, answer, { replacing: element });
      if (document.activeElement === document.body) $("scroller").focus({ preventScroll: true }); // what had it is gone
    },
    again: () => ask(element, content),
  });
}
