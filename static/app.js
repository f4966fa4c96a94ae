// The page: conversations, the chat, the tasks. It speaks the simple dialect of POST /chatkit and the REST API, and
// shows what both promise: an answer goes on without its reader, and a reader finds its way back into it.
//
// Modules import downwards: app, watch and keys; chat; messages, conversations, tasks; what these are made of; state.

import { addressed, enter, startAddress } from "./address.js";
import { startAddingTasks } from "./add-task.js";
import { ask, send } from "./chat.js";
import { open, showEarlier } from "./conversation.js";
import { startConversations } from "./conversations.js";
import { $ } from "./dom.js";
import { startDrawers } from "./drawers.js";
import { startKeys } from "./keys.js";
import { startMenu } from "./menu.js";
import { copyFor, editQuestion } from "./messages.js";
import { explain, say } from "./notice.js";
import { startScrolling } from "./scroll.js";
import { begin, signIn } from "./session.js";
import { startTasks } from "./tasks.js";
import { startUndo } from "./undo.js";
import { watch } from "./watch.js";
import { showModel } from "./welcome.js";

function clickedInMessages({ target }) {
  const pressed = target.closest("button");
  if (!pressed) return;
  const item = pressed.closest("#messages > li");
  if (pressed.matches(".copy, .copy-answer")) copyFor(pressed).catch(() => say("The browser does not let this page copy."));
  else if (pressed.matches(".again")) ask(item.previousElementSibling);
  else if (pressed.matches(".edit-question")) editQuestion(item, (content) => ask(item, content));
}

function listen() {
  startKeys();
  startMenu();
  startDrawers();
  startScrolling();
  startAddress((id) => open(id).catch(explain));
  startConversations((id, options) => open(id, options).catch(explain));
  startTasks();
  startAddingTasks();
  startUndo();
  $("messages").onclick = clickedInMessages;
  $("suggestions").onclick = ({ target }) => {
    if (!target.matches(".suggestion")) return;
    $("text").focus();
    send(target.textContent);
  };
  const earlier = () => showEarlier().catch(explain);
  $("earlier").onclick = earlier;
  $("scroller").addEventListener("scroll", () => $("scroller").scrollTop < 600 && earlier(), { passive: true });
}

async function main() {
  listen();
  const signing = signIn();
  const id = addressed();
  enter(id, { replacing: true }); // at once: what is typed meanwhile is written there
  const words = await signing;
  if (document.activeElement === document.body) $("text").focus();
  const opened = open(id, { replacing: true });
  begin();
  if (words) say(words);
  await Promise.all([showModel().catch(explain), opened, watch()]);
}

main().catch((error) => explain(error, () => location.reload()));
