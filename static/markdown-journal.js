// Changes that can be taken back: those that a line makes as long as it is not complete.

export class Journal {
  #undo = null; // how to take back what was changed, the last change last; null if it stays

  /** What is changed from now on can be taken back. */
  begin() {
    this.#undo = [];
  }

  /** Take back what was changed since then; what is changed from now on stays. */
  takeBack() {
    for (const undo of (this.#undo ?? []).reverse()) undo();
    this.#undo = null;
  }

  /** Change an object. */
  put(object, changes) {
    if (this.#undo) {
      const before = Object.fromEntries(Object.keys(changes).map((name) => [name, object[name]]));
      this.#undo.push(() => Object.assign(object, before));
    }
    Object.assign(object, changes);
  }

  /** Append to an element. */
  append(element, ...nodes) {
    const last = element.lastChild;
    this.#undo?.push(() => {
      while (element.lastChild !== last) element.lastChild.remove();
    });
    element.append(...nodes);
  }

  /** Take an element's children away, from this one on; return them. */
  cut(element, first) {
    const nodes = [];
    for (let node = first; node; node = node.nextSibling) nodes.push(node);
    for (const node of nodes) node.remove();
    this.#undo?.push(() => element.append(...nodes));
    return nodes;
  }

  /** Put one element in the place of another, with its children. */
  exchange(old, element) {
    element.append(...old.childNodes);
    old.replaceWith(element);
    this.#undo?.push(() => {
      old.append(...element.childNodes);
      element.replaceWith(old);
    });
  }

  /** Take an element away that is the last one of its parent. */
  remove(element) {
    const parent = element.parentNode;
    element.remove();
    this.#undo?.push(() => parent.append(element));
  }

  /** Set a property of an element that says nothing of itself. */
  attribute(element, name, value) {
    if (element.getAttribute(name) !== null) return;
    this.#undo?.push(() => element.removeAttribute(name));
    element.setAttribute(name, value);
  }
}
