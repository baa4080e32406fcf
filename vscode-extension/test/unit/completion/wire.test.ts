/** Over real sockets: what a server sees of superseded, stopped and given up requests. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createGateway } from "../../../src/api/client";
import { Session } from "../../../src/features/completion/session";
import type { Ask } from "../../../src/features/completion/spot";
import { Timeline } from "../../../src/features/timeline";
import { NO_PROXIES } from "../api/servers";
import { later, sourceOf } from "./desk";

/** What happened at the server, in order: `1 asks`, `1 gone`, `2 asks`, `2 done`. */
let events: string[];
let server: Server;
let session: Session;
let timeline: Timeline;
/** Pieces that the model says, and the time before each. */
let model: (request: { prompt: string }) => { pieces: readonly string[]; everyMs: number };
let slots: (string | undefined)[];
const open = new Set<Promise<unknown>>();

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let body = "";
  for await (const chunk of request) body += chunk;
  const number = events.filter((event) => event.endsWith("asks")).length + 1;
  events.push(`${number} asks`);
  slots.push(request.headers["x-aicockpit-slot"] as string | undefined);
  let gone = false;
  response.on("close", () => {
    if (response.writableFinished) return;
    gone = true;
    events.push(`${number} gone`);
  });
  const { pieces, everyMs } = model(JSON.parse(body));
  response.writeHead(200, { "content-type": "text/event-stream", "x-request-id": `r${number}` });
  response.flushHeaders();
  for (const text of pieces) {
    await later(everyMs);
    if (gone) return;
    response.write(`data: ${JSON.stringify({ choices: [{ index: 0, text, finish_reason: null }] })}\n\n`);
  }
  response.end("data: [DONE]\n\n");
  events.push(`${number} done`);
}

beforeEach(async () => {
  events = [];
  slots = [];
  timeline = new Timeline();
  server = createServer((request, response) => {
    const serving = serve(request, response);
    open.add(serving);
    void serving.finally(() => open.delete(serving));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const address = `http://127.0.0.1:${port}`;
  const gateway = createGateway(() => ({ address, key: "", proxy: NO_PROXIES, caFile: "", remoteName: undefined }));
  session = new Session({
    gateway,
    timeline,
    clock: () => performance.now(),
    slot: "completion-wire",
    met: () => {},
    options: () => ({ model: "m", maxTokens: 96, multiline: "auto", candidates: 1 }),
  });
});

afterEach(async () => {
  session.dispose();
  server.closeAllConnections();
  await Promise.all(open);
  await new Promise((resolve) => server.close(resolve));
});

function ask(line: string): Ask {
  const source = sourceOf(`def f(items):\n${line}\n`);
  const at = { line: 1, character: line.length };
  return { uri: "u", what: "u:2", language: "python", source, ...at, explicit: false, began: performance.now() };
}

const never = new AbortController().signal;

async function until(event: string): Promise<void> {
  for (let round = 0; round < 200 && !events.includes(event); round++) await later(5);
  expect(events).toContain(event);
}

test("a superseded request's connection is closed before the newer one is answered", async () => {
  model = ({ prompt }) => ({ pieces: prompt.endsWith("x") ? [" = 1"] : Array(200).fill("return 1 "), everyMs: 20 });
  void session.suggest(ask("    "), never);
  await until("1 asks");
  await later(50);
  const shown = await session.suggest(ask("    x"), never);
  expect(shown.map((one) => one.text)).toEqual([" = 1"]);
  expect(events.indexOf("1 gone")).toBeGreaterThan(0);
  expect(events.indexOf("1 gone")).toBeLessThan(events.indexOf("2 done"));
  expect(Math.abs(events.indexOf("1 gone") - events.indexOf("2 asks"))).toBe(1);
  expect(slots[0]).toContain("completion-wire");
  expect(slots[1]).toBe(slots[0]);
});

test("of a burst of keystrokes only the last one is answered, and no connection stays open", async () => {
  model = ({ prompt }) => ({ pieces: prompt.endsWith("qwertyuiop") ? [" = 1"] : Array(200).fill("zz "), everyMs: 10 });
  const word = "qwertyuiop";
  const asks: Promise<unknown>[] = [];
  for (let typed = 1; typed <= word.length; typed++) {
    asks.push(session.suggest(ask(`    ${word.slice(0, typed)}`), never));
    await later(30);
  }
  expect(await Promise.all(asks)).toEqual([
    ...Array(word.length - 1).fill([]),
    [expect.objectContaining({ text: " = 1" })],
  ]);
  const asked = events.filter((event) => event.endsWith("asks")).length;
  const gone = events.filter((event) => event.endsWith("gone")).length;
  expect(asked - gone).toBe(1);
  expect(events.at(-1)).toBe(`${asked} done`);
});

test("early stop frees the connection while the model would go on", async () => {
  model = () => ({ pieces: ["    return 1", "\n", "def g():\n", ...Array(200).fill("    pass\n")], everyMs: 10 });
  const shown = await session.suggest(ask("    if items:\n        "), never);
  expect(shown).toHaveLength(1);
  await until("1 gone");
  expect(events).toEqual(["1 asks", "1 gone"]);
});

test("a cursor that moves away frees the engine at once", async () => {
  model = () => ({ pieces: Array(500).fill("return 1 "), everyMs: 10 });
  void session.suggest(ask("    "), never);
  await until("1 asks");
  const moved = performance.now();
  session.moved("u", 0, 0);
  await until("1 gone");
  console.log(`cursor moved to connection closed: ${(performance.now() - moved).toFixed(1)} ms`);
});
