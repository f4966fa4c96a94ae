// Lists of things, each an item with a field to edit it in its place.

import { button, icon, make } from "./dom.js";

/** Make a list show these things, and leave alone what shows them already: focus and animations stay. */
export function update(list, things, item) {
  const old = new Map([...list.children].map((element) => [element.dataset.id, element]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const [place, id] = [focused?.dataset.place, focused?.closest("li").dataset.id];
  let next = list.firstChild;
  for (const thing of things) {
    let element = old.get(String(thing.id));
    old.delete(String(thing.id));
    const source = JSON.stringify(thing);
    if (!element || (element.source !== source && !element.dataset.editing)) { // who is at work in it is left alone
      if (element === next) next = next?.nextSibling ?? null;
      element?.remove();
      element = item(thing);
      Object.assign(element, { source });
      element.dataset.id = thing.id;
    }
    if (element === next) next = next.nextSibling;
    else list.insertBefore(element, next);
  }
  for (const element of old.values()) element.remove();
  if (!focused || document.activeElement === focused) return;
  if (focused.isConnected) focused.focus(); // it was moved
  else list.querySelector(`[data-id="${id}"] [data-place="${place}"]`)?.focus();
}

/** Do something with the item of a thing, if there is one still: it may have been made anew since it was pressed. */
export function withItem(list, id, act) {
  const item = list.querySelector(`:scope > [data-id="${id}"]`);
  if (item) act(item);
}

/** Make the one button of an item, which opens its menu. */
export function moreButton(title) {
  const more = button(icon("M3 8h.01M8 8h.01M13 8h.01"), null, { className: "more", ariaLabel: `More for ${title}` });
  more.setAttribute("aria-haspopup", "menu");
  more.dataset.place = "more";
  return more;
}

/** Move the focus from an item to its neighbour, which stays when that goes; nowhere else does anything move. */
export function leaveTo(item, otherwise) {
  const near = [item.nextElementSibling, item.previousElementSibling].find((other) => other?.querySelector(".more"));
  (near?.querySelector(".more") ?? otherwise).focus({ preventScroll: true });
}

/**
 * Replace an item's content by fields. Enter calls `keep`, which gets what puts the content back; so does Esc.
 */
export function edit(item, fields, keep) {
  const before = [...item.childNodes];
  const form = make("form", { className: "edit" }, ...fields);
  const restore = () => {
    delete item.dataset.editing;
    item.source = null; // it may be old: the list makes it anew when it is shown the next time
    item.replaceChildren(...before);
    item.querySelector(".more").focus();
  };
  form.append(make("span", { className: "buttons" }, make("button", {}, "Save"), button("Cancel", restore)));
  form.onsubmit = (event) => {
    event.preventDefault();
    keep(restore);
  };
  form.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    restore();
  };
  item.dataset.editing = "yes";
  item.replaceChildren(form);
  fields[0].focus();
  fields[0].select();
}
