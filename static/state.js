// What the page knows. The modules share this one object, and none of them keeps anything that changes for itself.

export const BASE = new URL("..", import.meta.url); // also right where the app is mounted under a prefix

export const state = {
  token: null, // who is signed in: session.js
  user: null, // as the server calls them
  offline: false, // whether the demo model answers
  conversation: undefined, // the id of the one that is shown; null for one that is not begun yet
  view: 0, // counts what is shown: what comes late for something else is dropped
  loading: Promise.resolve(), // the conversation that is being loaded
  shown: null, // the id of the one whose messages are shown; undefined if it could not be loaded
  stream: null, // the Stream that is being read
  unsent: null, // a message that the server has not confirmed: sent again it has the same key, and is one turn
  earlier: false, // whether the shown conversation has messages before those that are shown
  scroll: { atEnd: true, top: 0, end: 0 }, // scroll.js
  etags: new Map(), // by path: what the server called what we have of it
  turns: new Map(), // by kind: the request that runs, and the one that waits for it
  conversations: { listed: new Map(), complete: false, search: "", day: undefined },
  tasks: { listed: [], pages: new Map(), changed: new Set(), filter: "", day: undefined },
  leaving: false, // whether the history is on its way back from a drawer
  held: new Map(), // by path: the deletions that can still be undone
  news: false, // whether an answer has come that nobody has seen yet
};
