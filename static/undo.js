// Deletions that can be undone for a while. The page holds them back so long; the server knows nothing of them yet.

import { call, refused } from "./api.js";
import { $, button, make } from "./dom.js";
import { explain } from "./notice.js";
import { state } from "./state.js";

const PATIENCE = 8000; // ms

/** Whether what is at a path is as good as deleted. */
export function isHeld(path) {
  return state.held.has(path);
}

/**
 * Delete what is at a path, unless it is undone within 8 s. `show` shows what there is then; `forget` takes what is gone
 * off the list, and is done when the list is that of the server.
 */
export function deleteLater(path, words, show, forget) {
  const undo = () => {
    end(path);
    show({ back: true });
  };
  const note = make("p", {}, make("span", { dir: "auto" }, words), button("Undo", undo));
  state.held.set(path, { note, timer: setTimeout(() => send(path, show, forget), PATIENCE) });
  $("undo").prepend(note); // the newest one is at the bottom, and in sight however many there are
  show({ back: false });
}

async function send(path, show, forget) {
  state.held.get(path).note.remove();
  try {
    const response = await call("DELETE", path);
    if (!response.ok && response.status !== 404) throw await refused(response); // 404: somebody else was quicker
    await forget();
  } catch (error) {
    explain(error);
  }
  end(path);
  show({ back: false });
}

function end(path) {
  const { note, timer } = state.held.get(path);
  clearTimeout(timer);
  note.remove();
  state.held.delete(path);
}

/** The page is left: what was to be deleted is deleted now. */
function sendAll() {
  for (const path of [...state.held.keys()]) {
    call("DELETE", path, { keepalive: true }).catch(() => null); // nobody is there any more to be told
    end(path);
  }
}

export function startUndo() {
  addEventListener("pagehide", sendAll);
}
