// The same server under OpenAI's own component, which comes from OpenAI's servers.

const SCRIPT = "https://cdn.platform.openai.com/deployments/chatkit/chatkit.js";
const BASE = new URL("..", import.meta.url);

const token = sessionStorage.getItem("token" + BASE.pathname.slice(0, -1)); // as app.js keeps it
const why = document.getElementById("why");

function authorized(url, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
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

/** Without a token, the host may know its users by itself. */
async function signedIn() {
  if (token) return true;
  const { security } = await (await fetch(new URL("openapi.json", BASE))).json();
  return !security.length;
}

if (await signedIn().catch(() => true)) {
  const script = document.createElement("script");
  Object.assign(script, { src: SCRIPT, async: true, onerror: explain });
  document.head.append(script);
  show().catch(explain);
} else {
  why.textContent = "Sign in first, on the page of this chat, and then come back here.";
}
