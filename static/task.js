// One task: its row, and the fields to change it.

import { dayFromNow, make } from "./dom.js";
import { edit, moreButton } from "./list.js";
import { explain } from "./notice.js";

const LONGEST = 200; // characters of a title
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

/** Make the row of a task. */
export function taskItem({ id, title, description, due, completed, changed }) {
  const item = make("li", { className: `row${completed ? " completed" : ""}${changed ? " changed" : ""}` });
  const box = make("input", { type: "checkbox", checked: completed });
  box.dataset.place = "box";
  const text = make("span", { className: "task" }, make("span", { className: "title", dir: "auto" }, title));
  if (description) text.append(make("span", { className: "description", dir: "auto" }, description));
  const facts = make("span", { className: "facts" }, `#${id}`);
  if (due) facts.append(" · ", dueDate(due, completed));
  text.append(facts);
  item.append(make("label", {}, box, text), moreButton(title));
  item.onanimationend = () => item.classList.remove("changed");
  return item;
}

function dueDate(due, completed) {
  const [today, yesterday, tomorrow] = [0, -1, 1].map(dayFromNow);
  const names = new Map([[today, "today"], [yesterday, "yesterday"], [tomorrow, "tomorrow"]]);
  const name = names.get(due) ?? DAY.format(new Date(`${due}T12:00`));
  const overdue = due < today && !completed;
  const [className, words] = overdue ? ["overdue", `overdue: ${name}`] : ["due", `due ${name}`];
  return make("time", { className, dateTime: due }, words);
}

/** Say what is wrong with a title, or return null. */
export function fault(title) {
  const letters = [...title.trim()];
  if (letters.length <= LONGEST) return null;
  const begin = letters.slice(0, 30).join("");
  return `A task's title may have ${LONGEST} characters, and “${begin}…” has ${letters.length}.`;
}

/** Put fields in the place of a task's row; `keep` gets what was changed. */
export function editTask(row, { title, description, due }, keep) {
  const name = make("input", { value: title, ariaLabel: "Title", dir: "auto" });
  const day = make("input", { type: "date", value: due ?? "", ariaLabel: "Due", title: "Due" });
  const words = make("textarea", { value: description ?? "", rows: 2, placeholder: "Description", dir: "auto" });
  words.ariaLabel = "Description";
  edit(row, [name, day, words], (restore) => {
    const wanted = { title: name.value.trim() || title, due: day.value || null, description: words.value.trim() };
    const had = { title, due: due ?? null, description: description ?? "" };
    const changes = Object.fromEntries(Object.entries(wanted).filter(([field, value]) => value !== had[field]));
    const wrong = fault(wanted.title);
    if (wrong) return explainFault(wrong);
    if (!Object.keys(changes).length) return restore();
    keep(changes, restore).catch(explain);
  });

  function explainFault(wrong) {
    name.setCustomValidity(wrong);
    name.reportValidity();
    name.oninput = () => name.setCustomValidity("");
  }
}
