// Seeing what others do: another window, another process, a client of MCP. What has not changed costs next to nothing.

import { refreshConversation } from "./conversation.js";
import { showConversations } from "./conversations.js";
import { wait } from "./dom.js";
import { explain, say } from "./notice.js";
import { state } from "./state.js";
import { showTasks } from "./tasks.js";

const EVERY = 3000; // ms: what others did is seen within 5 s

/** Look again at all that is shown, as long as somebody may see it. */
export async function watch() {
  let lost = false;
  for (;;) {
    await nextLook();
    if (document.hidden) continue;
    try {
      // What streams is not awaited: it may take long.
      await Promise.all([showTasks(), showConversations()]);
      if (lost) say(null);
      lost = false;
      refreshConversation().catch(explain);
    } catch (error) {
      if (!lost && !state.stream) explain(error); // once: it is said as long as it is so
      lost = true;
    }
  }
}

/** Wait a while, or until the page is shown again. */
async function nextLook() {
  const listening = new AbortController();
  const shown = new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { signal: listening.signal });
  });
  await Promise.race([wait(EVERY), shown]);
  listening.abort();
}
