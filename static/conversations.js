// The list of conversations: by when they were last used, searched, and longer as one scrolls.

import { changed, inTurn, json } from "./api.js";
import { showTitle } from "./address.js";
import { $, button, dayFromNow, dayOf, make, moment } from "./dom.js";
import { edit, leaveTo, moreButton, update, withItem } from "./list.js";
import { openMenu } from "./menu.js";
import { explain } from "./notice.js";
import { state } from "./state.js";
import { deleteLater, isHeld } from "./undo.js";

const PAGE = 30;
const MONTH = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric" });

/** Return the address of a part of the list. */
function part(offset) {
  const { search } = state.conversations;
  return `api/conversations?limit=${PAGE}&offset=${offset}` + (search ? `&q=${encodeURIComponent(search)}` : "");
}

/** Ask for the conversations that were used last, and show what has changed. */
export async function showConversations() {
  const got = await inTurn("conversations", async () => {
    const path = part(0);
    const page = await changed(path);
    return path === part(0) ? page : null; // something else is searched for by now
  });
  const { listed, day } = state.conversations;
  if (!got && day !== undefined && day !== dayFromNow(0)) draw(); // what was today is yesterday
  if (!got) return;
  const oldest = got.at(-1)?.updated_at ?? "";
  const whole = got.length < PAGE;
  for (const [id, { updated_at: at }] of listed) if (whole || at >= oldest) listed.delete(id); // if still there: below
  for (const conversation of got) listed.set(conversation.id, conversation);
  if (whole || listed.size === got.length) state.conversations.complete = whole;
  draw();
}

/** Show more of them. */
async function showMore() {
  const { listed, complete } = state.conversations;
  if (complete || listed.size < PAGE) return;
  const got = await inTurn("more conversations", () => json("GET", part(listed.size)));
  if (listed !== state.conversations.listed) return; // something else is searched for by now
  state.conversations.complete = got.length < PAGE;
  for (const conversation of got) listed.set(conversation.id, conversation);
  draw();
  fill();
}

/** Go on while the end of the list is in sight. */
function fill() {
  const list = $("conversation-list");
  if (list.clientHeight && list.scrollHeight - list.scrollTop - list.clientHeight < 400) showMore().catch(explain);
}

function draw() {
  const { listed, search } = state.conversations;
  state.conversations.day = dayFromNow(0);
  const shown = [...listed.values()].filter(({ id }) => !isHeld(`api/conversations/${id}`));
  shown.sort((a, b) => (a.updated_at < b.updated_at ? 1 : a.updated_at > b.updated_at ? -1 : b.id - a.id));
  const rows = [];
  let group = null;
  for (const { id, title, live, updated_at: at } of shown) {
    const name = groupOf(at);
    if (name !== group) rows.push({ id: `group ${name}`, group: (group = name) });
    rows.push({ id, title, live, at: moment(at).textContent, iso: at });
  }
  update($("conversation-list"), rows, item);
  $("no-conversations").hidden = shown.length > 0;
  $("no-conversations").textContent = search ? "Nothing was found." : "Nothing has been said yet.";
  markCurrent();
  const current = listed.get(state.conversation);
  if (current) showTitle(current.title);
}

/** A conversation is gone: list it no more. */
export function forget(id) {
  state.conversations.listed.delete(id);
  return showConversations();
}

function groupOf(iso) {
  const date = new Date(iso);
  if (dayOf(date) >= dayFromNow(0)) return "Today";
  if (dayOf(date) === dayFromNow(-1)) return "Yesterday";
  return dayOf(date) > dayFromNow(-7) ? "The last seven days" : MONTH.format(date);
}

function item({ group, title, live, iso }) {
  if (group) return make("li", { className: "group" }, make("h3", {}, group));
  const name = button(make("span", { className: "title", dir: "auto" }, title), null, { className: "name", title });
  name.dataset.place = "name";
  if (live) name.append(make("span", { className: "live" }, "answering"));
  name.append(moment(iso));
  return make("li", { className: "row" }, name, moreButton(title));
}

/** Mark the conversation that is shown. */
export function markCurrent() {
  for (const row of $("conversation-list").children) {
    if (Number(row.dataset.id) === state.conversation) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

function rename(row, id, title) {
  const field = make("input", { value: title, ariaLabel: `New name for ${title}`, dir: "auto" });
  edit(row, [field], (restore) => {
    const wanted = field.value.trim();
    if (!wanted || wanted === title) return restore();
    json("PATCH", `api/conversations/${id}`, { title: wanted }).then(restore).then(showConversations).catch(explain);
  });
}

/** Forget what is listed, and list anew. */
function search() {
  const { value } = $("search");
  state.etags.delete(part(0));
  Object.assign(state.conversations, { search: value.trim(), listed: new Map(), complete: false });
  state.etags.delete(part(0));
  showConversations().then(fill).catch(explain);
}

/** Work the list: `open` shows a conversation, null for a new one. */
export function startConversations(open) {
  const list = $("conversation-list");
  list.onclick = ({ target }) => {
    const row = target.closest(".row");
    if (!row || row.dataset.editing) return;
    const id = Number(row.dataset.id);
    if (!target.closest(".more")) return open(id);
    const title = (item) => item.querySelector(".title").textContent; // what is listed may be another search's by now
    const remove = (item) => {
      const words = `Deleted “${title(item)}”.`;
      leaveTo(item, $("new"));
      deleteLater(`api/conversations/${id}`, words, ({ back }) => {
        draw();
        if (!back && id === state.conversation) open(null, { replacing: true });
      }, () => forget(id));
    };
    const change = (item) => rename(item, id, title(item));
    const now = (act) => () => withItem(list, id, act);
    openMenu(target.closest(".more"), [["Rename", now(change)], ["Delete", now(remove), "danger"]]);
  };
  list.addEventListener("scroll", fill, { passive: true });
  new ResizeObserver(fill).observe(list);
  let typing = null;
  $("search").oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(search, 200);
  };
  $("search").onkeydown = (event) => {
    if (event.key !== "Escape" || !$("search").value) return;
    event.stopPropagation();
    $("search").value = "";
    search();
  };
  $("new").onclick = () => open(null);
}
