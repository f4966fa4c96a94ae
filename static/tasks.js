// The tasks: open ones by their dates, done ones folded.

import { changed, inTurn, json } from "./api.js";
import { $, dayOf } from "./dom.js";
import { leaveTo, update, withItem } from "./list.js";
import { openMenu } from "./menu.js";
import { explain } from "./notice.js";
import { state } from "./state.js";
import { editTask, taskItem } from "./task.js";
import { deleteLater, isHeld } from "./undo.js";

const PAGE = 1000; // as many as the server gives at once

/** Show the tasks as they are; mark the one that has just changed, and bring a new one into sight. */
export async function showTasks({ id = null, inSight = false } = {}) {
  if (id !== null) state.tasks.changed.add(id);
  let listed;
  try {
    listed = await inTurn("tasks", listTasks);
  } catch (error) {
    if (error.status === 404) return hideTasks();
    throw error;
  }
  if (listed) state.tasks.listed = listed;
  if (listed || id !== null || state.tasks.day !== dayOf(new Date())) draw(); // what was due today is overdue
  if (inSight) $("task-list").querySelector(`[data-id="${id}"]`)?.scrollIntoView({ block: "nearest" });
}

/** Return all tasks, or null if they are what they were. */
async function listTasks() {
  const { pages } = state.tasks;
  let [all, news, path] = [[], false, "api/tasks"];
  for (;;) {
    const got = await changed(path);
    if (got) pages.set(path, got);
    news ||= got !== null;
    const page = pages.get(path);
    all = all.concat(page);
    if (page.length < PAGE) return news ? all : null;
    path = `api/tasks?after=${page.at(-1).id}`;
  }
}

/** The host of this server serves its tasks elsewhere. */
function hideTasks() {
  $("tasks").hidden = document.querySelector('[data-open="tasks"]').hidden = true;
}

function draw() {
  const { listed, changed: marked } = state.tasks;
  const words = state.tasks.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const today = (state.tasks.day = dayOf(new Date()));
  const matching = listed.filter((task) => {
    const text = `#${task.id} ${task.title} ${task.description ?? ""} ${task.due ?? ""}`.toLowerCase();
    return words.every((word) => text.includes(word)) && !isHeld(`api/tasks/${task.id}`);
  });
  const things = matching.map(({ id, title, description, due, completed }) => {
    return { id, title, description, due, completed, today: due ? today : null, changed: marked.delete(id) };
  });
  const [open, done] = [false, true].map((is) => things.filter(({ completed }) => completed === is));
  open.sort((a, b) => ((a.due ?? "9") < (b.due ?? "9") ? -1 : (a.due ?? "9") > (b.due ?? "9") ? 1 : a.id - b.id));
  update($("task-list"), open.map(settled("task-list")), taskItem);
  const news = done.some((task) => task.changed);
  if ($("done").open) update($("done-list"), done.reverse().map(settled("done-list")), taskItem);
  $("done").hidden = !done.length;
  $("done-count").textContent = `Done (${done.length})`;
  $("done").classList.toggle("changed", news && !$("done").open);
  $("no-tasks").hidden = open.length > 0;
  $("no-tasks").textContent = words.length ? "No open task has these words." : "Nothing to do.";
  $("filter").hidden = listed.length < 8 && !words.length;
}

/** What is not marked as changed now is shown as it was, with its mark if it had one: no animation is cut off. */
function settled(list) {
  const marked = new Set([...$(list).querySelectorAll(".changed")].map((item) => item.dataset.id));
  return (task) => ({ ...task, changed: task.changed || marked.has(String(task.id)) });
}

function find(element) {
  const row = element.closest("li.row");
  return [row, state.tasks.listed.find(({ id }) => id === Number(row?.dataset.id))];
}

/** Change a task on the server, and show what has become of it; `then` comes between the two. */
async function change(id, changes, then = () => null) {
  await json("PATCH", `api/tasks/${id}`, changes);
  then();
  await showTasks({ id });
}

function remove(row, { id, title }) {
  leaveTo(row, $("task-title"));
  deleteLater(`api/tasks/${id}`, `Deleted “${title}”.`, draw, () => {
    state.tasks.listed = state.tasks.listed.filter((task) => task.id !== id);
    return showTasks();
  });
}

function clicked({ target }) {
  const more = target.closest(".more");
  if (!more) return;
  const [row, { id }] = find(more);
  const list = row.parentNode;
  const edit = (item) => editTask(item, find(item)[1], (changes, then) => change(id, changes, then));
  const drop = (item) => remove(item, find(item)[1]);
  const now = (act) => () => withItem(list, id, act);
  openMenu(more, [["Edit", now(edit)], ["Delete", now(drop), "danger"]]);
}

function ticked({ target: box }) {
  if (box.type !== "checkbox") return;
  const [row, { id, completed }] = find(box);
  const near = row.nextElementSibling ?? row.previousElementSibling;
  change(id, { completed: box.checked })
    .then(() => document.activeElement === document.body && (near?.querySelector("input") ?? $("task-title")).focus())
    .catch((error) => ((box.checked = completed), explain(error)));
}

export function startTasks() {
  for (const list of [$("task-list"), $("done-list")]) {
    list.onclick = clicked;
    list.onchange = ticked;
  }
  $("done").ontoggle = draw;
  $("filter").oninput = () => {
    state.tasks.filter = $("filter").value;
    draw();
  };
}
