import { rmSync } from "node:fs";
import { createServer } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type CheckParts, check, type Step } from "../../../src/api/check";
import type { Options } from "../../../src/api/client";
import { isAbort } from "../../../src/api/fault";
import { conclusion, report, wrap } from "../../../src/api/report";
import {
  type Certificates,
  type Handler,
  json,
  type ModelServer,
  makeCertificates,
  modelServer,
  NO_PROXIES,
  options,
  type Running,
  refuse,
  serve,
  serveProxy,
  serveRaw,
} from "./servers";

let made: Certificates;
const open: { close(): Promise<void> }[] = [];

beforeAll(() => {
  made = makeCertificates();
}, 30_000);
afterAll(() => rmSync(made.folder, { recursive: true }));
afterEach(async () => {
  for (const server of open.splice(0)) await server.close();
});

async function until<T extends { close(): Promise<void> }>(server: Promise<T>): Promise<T> {
  const running = await server;
  open.push(running);
  return running;
}

function gateway(how: ModelServer = {}): Promise<Running> {
  return until(serve(modelServer({ fim: "qwen", ...how })));
}

async function steps(
  address: string,
  more: Partial<Options> = {},
  parts: Partial<CheckParts> = {},
): Promise<readonly Step[]> {
  const found: Step[] = [];
  const whole = { completionModel: "", signal: new AbortController().signal, ...parts };
  for await (const step of check(options(address, more), whole)) found.push(step);
  return found;
}

function short(found: readonly Step[]): string[] {
  return found.map((step) => `${step.state} ${step.id}`);
}

/** The last step, which must have failed; the ones before must not. */
function failure(found: readonly Step[]): Step {
  expect(found.slice(0, -1).map((step) => step.state)).not.toContain("fail");
  const last = found.at(-1);
  if (last?.state !== "fail") throw new Error(`it did not fail: ${short(found).join(", ")}`);
  expect(last.fix).not.toBe("");
  return last;
}

describe("a check of a good server", () => {
  it("goes from the address to the speed", async () => {
    const server = await gateway({ key: "k" });
    const found = await steps(server.url, { key: "k" });
    expect(short(found)).toEqual([
      "ok address",
      "ok reach",
      "ok server",
      "ok key",
      "ok model",
      "ok completion",
      "ok speed",
    ]);
    expect(conclusion(found)).toEqual({ state: "ok", text: "Everything works." });
    expect(found.at(-2)?.what).toContain("qwen");
    expect(found.map(report).join("\n")).toMatch(/ok {3}Speed: First token after \d+ ms, then after \d+ ms\./);
    const ready = server.seen.find((one) => one.url === "/ready");
    expect(ready?.headers).not.toHaveProperty("authorization");
  });

  it("looks up names, and says which certificate is trusted until when", async () => {
    const server = await until(serve(modelServer({ fim: "qwen" }), made.signed));
    const found = await steps(`https://localhost:${server.port}`, { caFile: made.authority });
    expect(short(found).slice(0, 4)).toEqual(["ok address", "ok name", "ok reach", "ok tls"]);
    expect(found[1]?.what).toContain("127.0.0.1");
    expect(found[3]?.what).toMatch(/valid until \d{4}-\d\d-\d\d/);
  });

  it("goes through the proxy that is set", async () => {
    const server = await gateway();
    const proxy = await until(serveProxy(server));
    const found = await steps(`http://gateway.test:${server.port}`, {
      proxy: { ...NO_PROXIES, env: { http_proxy: proxy.url } },
    });
    expect(short(found)).not.toContain("ok name");
    expect(found[0]?.what).toContain("not encrypted");
    expect(found[1]?.what).toContain(`${proxy.url} (from http_proxy)`);
    expect(conclusion(found).state).toBe("ok");
  });

  it("tells of a model that has no fill-in-the-middle, and of slowness", async () => {
    const found = await steps((await gateway({ fim: "plain-files" })).url);
    expect(short(found).slice(-2)).toEqual(["warn completion", "ok speed"]);
    expect(found.at(-2)?.what).toContain("go on from the text before the cursor");
    const slow = await steps((await gateway({ delayMs: 1_100 })).url);
    expect(short(slow).at(-1)).toBe("warn speed");
    expect(conclusion(slow)).toMatchObject({ state: "warn", text: expect.stringContaining("Connected. First token") });
  });

  it("says plainly that plain vLLM is not AiCockpit, and goes on", async () => {
    const found = await steps((await gateway({ plain: true, key: "k" })).url, { key: "k" });
    expect(short(found)).toEqual([
      "ok address",
      "ok reach",
      "warn server",
      "ok key",
      "ok model",
      "warn completion",
      "ok speed",
    ]);
    expect(found[2]?.what).toContain("vLLM 0.11.0), not AiCockpit");
  });

  it("says how far loading is", async () => {
    const found = await steps(
      (await gateway({ models: [{ id: "a", ready: false }], ready: false, reason: "loading weights 40 %" })).url,
    );
    expect(short(found).at(-1)).toBe("warn model");
    expect(found.at(-1)?.what).toContain("loading weights 40 %");
  });

  it("names a model in the settings that is not served", async () => {
    const found = await steps((await gateway()).url, {}, { completionModel: "missing" });
    expect(found.find((step) => step.id === "model")).toMatchObject({
      state: "warn",
      what: expect.stringContaining("served: coder"),
    });
  });

  it("says that nothing is served, or nothing that writes", async () => {
    expect(failure(await steps((await gateway({ models: [], ready: true })).url))).toMatchObject({
      id: "model",
      what: "No model is served.",
    });
    const embedding = await gateway({ models: [{ id: "e", role: "embedding", ready: true }] });
    expect(failure(await steps(embedding.url)).what).toContain("(e)");
  });
});

describe("a check says of", () => {
  it("an address that is none", async () => {
    expect(failure(await steps("ftp://x"))).toMatchObject({ id: "address" });
  });

  it("a name that nobody knows", async () => {
    expect(failure(await steps("http://gateway.invalid"))).toMatchObject({ id: "name" });
  });

  it("a port where nobody listens: on which machine it looked", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    await new Promise((resolve) => server.close(resolve));
    const found = failure(await steps(`http://127.0.0.1:${port}`, { remoteName: "dev-container" }));
    expect(found).toMatchObject({ id: "reach", offer: "address" });
    expect(found.what).toContain("the container, where this extension runs");
    expect(found.fix).toContain("host.docker.internal");
  });

  it("a certificate of its own: the CA file is offered", async () => {
    const server = await until(serve(modelServer(), made.selfSigned));
    const found = failure(await steps(server.url));
    expect(found).toMatchObject({ id: "tls", offer: "caFile" });
    expect(found.fix).toContain(`openssl s_client -connect 127.0.0.1:${server.port}`);
    expect(conclusion(await steps(server.url, { caFile: made.selfSigned.file })).state).not.toBe("fail");
  });

  it.each(["expired", "otherName"] as const)("a certificate that is bad: %s", async (which) => {
    const server = await until(serve(modelServer(), made[which]));
    const caFile = which === "expired" ? made.authority : made.otherName.file;
    expect(failure(await steps(server.url, { caFile }))).toMatchObject({ id: "tls" });
  });

  it("a CA file that cannot be read", async () => {
    const server = await until(serve(modelServer(), made.selfSigned));
    expect(failure(await steps(server.url, { caFile: "/nowhere.pem" }))).toMatchObject({ id: "tls", offer: "caFile" });
  });

  it("the wrong one of http and https: which one is right, also behind an unknown certificate", async () => {
    const plain = await gateway();
    expect(failure(await steps(plain.url.replace("http:", "https:")))).toMatchObject({
      id: "reach",
      suggestion: plain.url,
    });
    const secure = await until(serve(modelServer(), made.selfSigned));
    const found = failure(await steps(secure.url.replace("https:", "http:"), { key: "k" }));
    expect(found).toMatchObject({ id: "reach", suggestion: secure.url, offer: "address" });
    expect(found.what).toContain("speaks https, not http");
  });

  it("something that is not HTTP", async () => {
    const server = await until(serveRaw((socket) => void socket.write("SSH-2.0-OpenSSH_9.2\r\n")));
    expect(failure(await steps(server.url))).toMatchObject({ id: "server", offer: "address" });
  });

  it.each([
    [407, "name and password"],
    [403, "403"],
  ])("a proxy that answers %i", async (status, words) => {
    const server = await gateway();
    const proxy = await until(serveProxy(server, { status }));
    for (const scheme of ["http", "https"]) {
      if (scheme === "http" && status === 403) continue; // there the answer is the server's own, for all we can tell
      const env = { all_proxy: proxy.url };
      const found = failure(await steps(`${scheme}://gateway.test:${server.port}`, { proxy: { ...NO_PROXIES, env } }));
      expect(`${found.what} ${found.fix}`).toContain(words);
      expect(found.offer).toBe("proxy");
    }
  });

  it("a proxy of a kind that cannot be used", async () => {
    const proxy = { ...NO_PROXIES, env: { ALL_PROXY: "socks5://127.0.0.1:1080" } };
    expect(failure(await steps("http://gateway.test", { proxy }))).toMatchObject({ id: "reach", offer: "proxy" });
  });

  it("a key that is missing, wrong, or may not", async () => {
    const server = await gateway({ key: "k" });
    expect(failure(await steps(server.url))).toMatchObject({
      id: "key",
      offer: "key",
      what: "The server asks for a key.",
    });
    expect(failure(await steps(server.url, { key: "wrong" })).what).toContain("does not know this key");
    const strict: Handler = (seen, response) =>
      seen.url === "/ready"
        ? json(response, { ready: true, reason: "" })
        : refuse(response, 403, "foreign_origin", "host is foreign");
    expect(failure(await steps((await until(serve(strict))).url))).toMatchObject({
      id: "key",
      what: "Host is foreign.",
    });
  });

  it.each([
    ["a web page", 200, "text/html", "<!doctype html><p>Log in", /web page/],
    ["a page that is not found", 404, "text/html", "<html>nginx", /There is no \/v1\/models/],
    ["JSON of something else", 200, "application/json", '{"hello":1}', /Something else/],
    ["a gateway error", 502, "text/plain", "", /502/],
  ])("%s", async (_, status, type, body, words) => {
    const server = await until(
      serve((__, response) => void response.writeHead(status, { "content-type": type }).end(body)),
    );
    const found = failure(await steps(server.url));
    expect(found).toMatchObject({ id: "server", offer: "address" });
    expect(found.what).toMatch(words);
  });

  it("a redirect", async () => {
    const server = await until(
      serve((_, response) => void response.writeHead(301, { location: "https://elsewhere.test/x" }).end()),
    );
    expect(failure(await steps(server.url)).fix).toContain("https://elsewhere.test");
  });

  it("a server that gives no token in time", async () => {
    const server = await gateway({ delayMs: 5_000 });
    expect(failure(await steps(server.url, {}, { probeMs: 60 }))).toMatchObject({
      id: "completion",
      what: expect.stringContaining("No token"),
    });
  });
});

it("stops with an AbortError when it is told to", async () => {
  const server = await gateway({ delayMs: 5_000 });
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 100);
  expect(isAbort(await steps(server.url, {}, { signal: stop.signal }).catch((found: unknown) => found))).toBe(true);
});

it("breaks long words of advice into lines", () => {
  expect(wrap("one two  three\nfour", 9)).toEqual(["one two", "three", "four"]);
  expect(wrap("a-very-long-word b", 5)).toEqual(["a-very-long-word", "b"]);
  expect(wrap(" ", 5)).toEqual([]);
});
