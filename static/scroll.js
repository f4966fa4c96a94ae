// Staying at the end of the conversation, as long as its reader wants to be there. What they want is what they do:
// going up leaves the end, however slowly, and coming down to it follows again.

import { $ } from "./dom.js";
import { state } from "./state.js";

/** Look where the reader has gone since we last looked. */
export function look() {
  const [scroller, seen] = [$("scroller"), state.scroll];
  const [top, end] = [scroller.scrollTop, scroller.scrollHeight - scroller.clientHeight];
  if (top < seen.top && end >= seen.end) seen.atEnd = false; // what has become shorter goes up by itself
  else if (end - top <= 2 && (top > seen.top || end <= 2)) seen.atEnd = scroller.clientHeight > 0 || seen.atEnd;
  Object.assign(seen, { top, end });
  $("to-end").hidden = seen.atEnd;
}

export function toEnd() {
  const scroller = $("scroller");
  scroller.scrollTop = scroller.scrollHeight;
  look();
  state.scroll.atEnd = true;
  $("to-end").hidden = true;
}

/** Change the conversation; stay at its end if the reader is there, and nowhere else. */
export function keepPlace(change) {
  look();
  change();
  if (state.scroll.atEnd) toEnd();
}

/** Put something above what is shown; what the reader sees stays where it is. */
export function keepSight(change) {
  const scroller = $("scroller");
  const below = scroller.scrollHeight - scroller.scrollTop;
  change();
  scroller.scrollTop = scroller.scrollHeight - below;
  Object.assign(state.scroll, { top: scroller.scrollTop, end: scroller.scrollHeight - scroller.clientHeight });
}

export function startScrolling() {
  $("scroller").addEventListener("scroll", look, { passive: true });
  $("to-end").onclick = () => (toEnd(), $("text").focus());
  new ResizeObserver(() => keepPlace(() => null)).observe($("scroller"));
}
