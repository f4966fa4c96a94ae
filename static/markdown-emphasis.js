// Emphasis and strikethrough: runs of `*`, `_` and `~`, and which of them belong together.

const DEEPEST = 20; // emphasis in emphasis
const SPACE = /\s/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;

/** What a run of delimiters may be between these two letters: the beginning of emphasis, its end, both, or neither. */
export function roles(mark, before, after) {
  const [left, right] = [flanks(after, before), flanks(before, after)];
  if (mark !== "_") return { opens: left, closes: right };
  return {
    opens: left && (!right || PUNCTUATION.test(before)),
    closes: right && (!left || PUNCTUATION.test(after)),
  };
}

/** The runs of a line whose other ends are not found yet; each knows the one before it and the one after it. */
export class Delimiters {
  last = null;

  /** Whether something that follows could be the other end of one of them. */
  get open() {
    for (let one = this.last; one; one = one.previous) if (one.opens) return true;
    return false;
  }

  push(run) {
    Object.assign(run, { previous: this.last, next: null, depth: 0 }); // `depth`: of the emphasis before the next one
    if (this.last) this.last.next = run;
    this.last = run;
  }

  /** Forget all that come after this one. */
  forget(bottom) {
    this.last = bottom;
    if (bottom) bottom.next = null;
  }

  #first() {
    let one = this.last;
    while (one?.previous) one = one.previous;
    return one;
  }

  /** Make emphasis of the delimiters after `bottom`. */
  emphasize(bottom) {
    const bottoms = new Map(); // by kind of closer: below which delimiter there is no opener for it
    let closer = bottom ? bottom.next : this.#first();
    while (closer) {
      if (!closer.closes) {
        closer = closer.next;
        continue;
      }
      const kind = `${closer.mark}${closer.opens}${closer.mark === "~" ? closer.length : closer.whole % 3}`;
      const floor = bottoms.get(kind) ?? bottom;
      let opener = closer.previous;
      while (opener && opener !== bottom && opener !== floor && !fit(opener, closer)) opener = opener.previous;
      if (!opener || opener === bottom || opener === floor) {
        bottoms.set(kind, closer.previous);
        const next = closer.next;
        if (!closer.opens) this.#unlink(closer);
        closer = next;
        continue;
      }
      closer = this.#wrap(opener, closer);
    }
  }

  /** Put what is between two delimiters into an element; return the next closer. */
  #wrap(opener, closer) {
    for (let one = closer.previous; one !== opener; one = one.previous) this.#unlink(one);
    if (opener.depth === DEEPEST) return this.#drop(opener, closer);
    opener.depth += 1;
    const used = closer.mark === "~" ? closer.length : Math.min(2, opener.length, closer.length);
    const element = document.createElement(closer.mark === "~" ? "del" : used === 2 ? "strong" : "em");
    while (opener.node.nextSibling !== closer.node) element.append(opener.node.nextSibling);
    opener.node.after(element);
    for (const one of [opener, closer]) {
      one.length -= used;
      one.node.data = one.node.data.slice(used);
      if (one.length) continue;
      one.node.remove();
      this.#unlink(one);
    }
    return closer.length ? closer : closer.next;
  }

  /** What is too deep stays the text that it is. */
  #drop(opener, closer) {
    const { next } = closer;
    for (const one of [closer, opener]) this.#unlink(one);
    return next;
  }

  #unlink(one) {
    if (one.previous) one.previous.depth = Math.max(one.previous.depth, one.depth);
    if (one.previous) one.previous.next = one.next;
    if (one.next) one.next.previous = one.previous;
    else this.last = one.previous;
  }
}

/** Whether delimiters of these two runs may be the two ends of something. */
function fit(opener, closer) {
  if (opener.mark !== closer.mark || !opener.opens) return false;
  if (opener.mark === "~") return opener.length === closer.length;
  const both = closer.opens || opener.closes; // a run that can be both must not be matched with too long or short a one
  return !(both && closer.whole % 3 !== 0 && (opener.whole + closer.whole) % 3 === 0);
}

/** Whether a run of delimiters before `inner` and after `outer` stands at the side of a word. */
function flanks(inner, outer) {
  if (SPACE.test(inner)) return false;
  return !PUNCTUATION.test(inner) || SPACE.test(outer) || PUNCTUATION.test(outer);
}
