// What is said beside the text field: what went wrong, and a way to try again.

import { Refusal } from "./api.js";
import { $ } from "./dom.js";
import { closeDrawer } from "./drawers.js";
import { keepPlace } from "./scroll.js";
import { signInAgain } from "./session.js";

/** Say something, with a way to try again if there is one; nothing takes it away. */
export function say(words, again = null) {
  const notice = $("notice");
  if (words) closeDrawer(); // it would be behind it
  if (!words && notice.hidden) return;
  if (notice.contains(document.activeElement)) $("text").focus();
  keepPlace(() => {
    notice.hidden = !words;
    notice.firstElementChild.textContent = words ?? "";
    const retry = notice.lastElementChild;
    retry.hidden = !again;
    retry.onclick = again;
  });
}

/** Say what went wrong with a request. */
export function explain(error, again = null) {
  if (error.name === "AbortError") return;
  if (error instanceof TypeError && navigator.onLine === false) return say("This device is offline.", again);
  if (!(error instanceof Refusal)) return say("The server cannot be reached. Is it running?", again);
  if (error.status === 401) return signInAgain();
  const when = error.retryAfter ? ` You can try again in ${error.retryAfter} seconds.` : "";
  say(error.message + when, error.passes || [409, 429].includes(error.status) ? again : null);
}
