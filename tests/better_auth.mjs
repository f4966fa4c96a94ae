// Runs the documentation's Better Auth: node better_auth.mjs AUTH.mjs PAGE.html PORT

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { toNodeHandler } from "better-auth/node";

const [, , recipe, page, port] = process.argv;
const { auth } = await import(recipe);
const handle = toNodeHandler(auth);

/** End the keys that there are, as a `rotationInterval` would: the next token is signed with a new one. */
async function rotate() {
  const { adapter } = await auth.$context;
  for (const { id } of await adapter.findMany({ model: "jwks" })) {
    await adapter.update({ model: "jwks", where: [{ field: "id", value: id }], update: { expiresAt: new Date() } });
  }
}

createServer(async (request, response) => {
  if (request.url.startsWith("/api/auth/")) return handle(request, response);
  if (request.url === "/rotate") await rotate();
  response.setHeader("Content-Type", "text/html");
  response.end(readFileSync(page));
}).listen(Number(port), "localhost", () => console.log("ready"));
