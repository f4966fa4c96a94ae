// The same server under OpenAI's own component, which comes from OpenAI's servers.

import { authorization, mayAsk } from "./session.js";

const SCRIPT = "https://cdn.platform.openai.com/deployments/chatkit/chatkit.js";
const BASE = new URL("..", import.meta.url);

const why = document.getElementById("why");

function authorized(url, options = {}) {
  const headers = new Headers(options.headers);
  for (const [name, value] of Object.entries(authorization())) headers.set(name, value);
  return fetch(url, { ...options, headers });
}

async function show() {
  const late = new Promise((_, reject) => setTimeout(reject, 10_000, new Error("it did not come")));
  await Promise.race([customElements.whenDefined("openai-chatkit"), late]);
  const chat = document.getElementById("chat");
  chat.setOptions({
    api: { url: new URL("chatkit", BASE).href, domainKey: "local-dev", fetch: authorized },
    history: { enabled: true, showRename: true, showDelete: true },
    threadItemActions: { feedback: true, retry: true },
  });
  chat.hidden = false;
  document.getElementById("note").hidden = true;
}

function explain() {
  why.textContent =
    `Its script could not be loaded from ${new URL(SCRIPT).host}. It is not a part of this server: OpenAI serves it, so ` +
    "it needs the internet, and nothing on the way may block it.";
}

if (await mayAsk().catch(() => true)) {
  const script = document.createElement("script");
  Object.assign(script, { src: SCRIPT, async: true, onerror: explain });
  document.head.append(script);
  show().catch(explain);
} else {
  why.textContent = "Sign in first, on the page of this chat, and then come back here.";
}
