// The field that adds tasks: one for each line, so that a pasted list becomes tasks.

import { json } from "./api.js";
import { $ } from "./dom.js";
import { explain } from "./notice.js";
import { state } from "./state.js";
import { fault } from "./task.js";
import { showTasks } from "./tasks.js";

const MARK = /^\s*(?:[-*+•]|\d{1,3}[.)])?\s*(?:\[[ xX]?\]\s+)?/; // of a list in which the line stood

async function add(event) {
  event.preventDefault();
  const field = $("task-title");
  const lines = field.value.split("\n");
  const titles = lines.map((line) => (lines.length > 1 ? line.replace(MARK, "") : line).trim()).filter(Boolean);
  const wrong = titles.map(fault).find(Boolean);
  if (wrong) return complain(wrong);
  const typed = field.value;
  field.value = ""; // at once: Enter may come twice
  state.tasks.filter = $("filter").value = ""; // or it may hide what is new
  let last = null;
  try {
    while (titles.length) {
      last = await json("POST", "api/tasks", { title: titles[0] });
      titles.shift();
      state.tasks.changed.add(last.id);
    }
  } catch (error) {
    field.value ||= lines.length > 1 ? titles.join("\n") : typed;
    explain(error);
  }
  if (last) await showTasks({ id: last.id, inSight: true }).catch(explain);
}

/** Say what is wrong beside the field, and keep what was typed. */
function complain(wrong) {
  const field = $("task-title");
  $("task-fault").textContent = wrong;
  $("task-fault").hidden = false;
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

export function startAddingTasks() {
  $("add-task").onsubmit = add;
  $("task-title").oninput = () => {
    $("task-fault").hidden = true;
    $("task-title").removeAttribute("aria-invalid");
  };
  $("task-title").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    $("add-task").requestSubmit();
  };
}
