// Who is signed in: the token, where it is kept, and the page on which one signs in.
//
// A token is kept in localStorage, so that a new tab and a restarted browser are signed in too. That is no less safe
// than sessionStorage: a script that could read the one, in this page, could read the other.

import { $ } from "./dom.js";
import { forgetDrafts, writtenBy } from "./drafts.js";
import { BASE, state } from "./state.js";

const KEY = "token" + BASE.pathname.slice(0, -1); // two apps of one host have two
const known = Promise.withResolvers();

state.token = localStorage.getItem(KEY);

/** Done once it is known who is signed in, and what they see is asked for: what is sent before would be nobody's. */
export const signedIn = known.promise;

export function begin() {
  known.resolve();
}

/** The header that says who asks; none where a host knows its users by itself, by a cookie or a gateway. */
export function authorization() {
  return state.token ? { Authorization: `Bearer ${state.token}` } : {};
}

/** Whether there is a token, or the host of this server needs none. */
export async function mayAsk() {
  if (state.token) return true;
  const { security } = await (await fetch(new URL("openapi.json", BASE))).json();
  return !security.length;
}

/**
 * Sign in by the token in the address, or the one that was kept. Returns once somebody is signed in; if there is
 * something to say, that.
 */
export async function signIn() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname); // it would end in bookmarks and histories
  listen();
  const invalid = Boolean(state.token || given);
  let words = null;
  state.user = (await mayAsk()) ? await userOf(state.token) : null;
  if (given && given !== state.token) {
    const other = await userOf(given);
    const mine = state.user === null || state.user === other;
    if (other !== null && (mine || (await agreed(state.user, other)))) keep(given, other);
    else if (other === null && state.user !== null) words = `The token in the link is not valid. You are signed in as ${state.user}.`;
  }
  if (state.user === null) await askForToken(invalid ? "The token is not valid, or not any more." : "");
  writtenBy(state.user);
  $("user").textContent = state.user;
  $("sign-out").hidden = !state.token; // without one the host signs its users out
  $("who").hidden = false;
  return words;
}

/** The server does not accept the token any more: ask for another one. What was typed stays, for the same user. */
export async function signInAgain() {
  if (document.body.classList.contains("signed-out")) return;
  const before = state.user;
  await askForToken("Your sign-in is not valid any more.");
  if (state.user !== before) location.reload();
}

/** Return the name of a token's user; null if the server does not accept it. */
async function userOf(candidate) {
  const headers = candidate ? { Authorization: `Bearer ${candidate}` } : {};
  const response = await fetch(new URL("api/me", BASE), { headers });
  if (response.status === 401) return null;
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()).user;
}

function keep(accepted, its) {
  [state.token, state.user] = [accepted, its];
  localStorage.setItem(KEY, state.token);
}

/** A link of somebody else's must not sign the reader in unasked: they would write into another's list. */
function agreed(now, other) {
  $("other-user").textContent = `You are signed in as ${now}. This link signs you in as ${other}.`;
  [$("become").textContent, $("remain").textContent] = [`Sign in as ${other}`, `Stay ${now}`];
  const dialog = $("change-user");
  dialog.showModal();
  return new Promise((resolve) => {
    $("become").onclick = () => (dialog.close(), resolve(true));
    $("remain").onclick = () => dialog.close();
    dialog.onclose = () => resolve(false); // Esc too; after the first answer it changes nothing
  });
}

/** Show the sign-in page, until a token is pasted there that the server accepts. */
async function askForToken(words) {
  document.body.classList.add("signed-out");
  $("sign-in").hidden = false;
  const [form, field] = [$("token-form"), $("token")];
  const tell = (text) => {
    $("token-error").textContent = text;
    $("token-error").hidden = !text;
  };
  tell(words);
  await new Promise((resolve) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      const pasted = field.value.trim().replace(/^.*#token=|^Bearer /, ""); // the whole link does as well
      try {
        const its = /^[\x21-\x7e]+$/.test(pasted) ? await userOf(pasted) : null;
        if (its === null) return tell("This token is not valid, or not any more.");
        keep(pasted, its);
      } catch {
        return tell("The server cannot be reached. Is it running?");
      }
      field.value = "";
      resolve();
    };
  });
  document.body.classList.remove("signed-out");
  $("sign-in").hidden = true;
}

function listen() {
  $("sign-out").onclick = () => {
    localStorage.removeItem(KEY);
    forgetDrafts();
    history.replaceState(null, "", location.pathname);
    location.reload();
  };
  window.addEventListener("storage", async ({ key, newValue }) => {
    if (key !== KEY && key !== null) return;
    const waits = document.body.classList.contains("signed-out");
    if (!waits && newValue && (await userOf(newValue).catch(() => null)) === state.user) state.token = newValue;
    else location.reload(); // another tab has signed out, or in as somebody else, or in where this one waits for it
  });
}
