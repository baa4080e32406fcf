import { createServer } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { Fault, isAbort } from "../../../src/api/fault";
import { faultOf } from "../../../src/api/faults";
import { type Call, Http, type Limits, readAll, readError } from "../../../src/api/http";
import { options, type Running, serve, serveRaw } from "./servers";

const LIMITS: Limits = { connectMs: 300, finishMs: 1_000, keepMs: 60_000 };
const open: { close(): Promise<void> }[] = [];
const stacks: Http[] = [];

afterEach(async () => {
  for (const http of stacks.splice(0)) http.dispose();
  for (const server of open.splice(0)) await server.close();
});

function stack(limits: Limits = LIMITS): Http {
  const http = new Http(limits);
  stacks.push(http);
  return http;
}

async function until(server: Promise<Running>): Promise<Running> {
  const running = await server;
  open.push(running);
  return running;
}

function get(more: Partial<Call> = {}): Call {
  return { method: "GET", path: "/x", headers: {}, idleMs: 2_000, ...more };
}

async function fault(work: Promise<unknown>): Promise<Fault> {
  const error = await work.then(
    () => undefined,
    (found: unknown) => found,
  );
  expect(error).toBeInstanceOf(Fault);
  return error as Fault;
}

async function soon(what: () => boolean): Promise<void> {
  const end = performance.now() + 8_000;
  while (!what()) {
    if (performance.now() > end) throw new Error("it did not come to that");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe("one request after another", () => {
  it("takes the same connection, and says so", async () => {
    const server = await until(serve((_, response) => void response.end("yes")));
    const http = stack();
    for (const reused of [false, true, true]) {
      const answer = await http.send(options(server.url), get());
      expect(answer.reused).toBe(reused);
      expect((await readAll(answer, 100)).toString()).toBe("yes");
    }
    expect(server.sockets).toHaveLength(1);
  });

  it("sends path, headers and body below the address", async () => {
    const server = await until(serve((_, response) => void response.end()));
    const call = get({
      method: "POST",
      path: "/a?b=1",
      headers: { "x-a": "ü".normalize("NFD")[0] ?? "" },
      body: "größe",
    });
    await readAll(await stack().send(options(`${server.url}/below/v1`), call), 10);
    expect(server.seen[0]).toMatchObject({ method: "POST", url: "/below/a?b=1", headers: { "content-length": "7" } });
    expect(server.seen[0]?.body.toString()).toBe("größe");
  });

  it("is sent again, once, when the kept connection had been closed meanwhile", async () => {
    const server = await until(serve((_, response) => void response.end("yes")));
    const http = stack();
    await readAll(await http.send(options(server.url), get()), 10);
    for (const socket of server.sockets) socket.resetAndDestroy();
    const answer = await http.send(options(server.url), get({ method: "POST", body: "again" }));
    expect(answer.reused).toBe(false);
    expect(server.seen.map((one) => one.body.toString())).toEqual(["", "again"]);
  });

  it("says so when there is nobody any more to send it to", async () => {
    const server = await until(serve((_, response) => void response.end("yes")));
    const http = stack();
    await readAll(await http.send(options(server.url), get()), 10);
    await server.close();
    expect(await fault(http.send(options(server.url), get()))).toMatchObject({ kind: "refused" });
  });

  it("is not sent again when a fresh connection breaks", async () => {
    let connections = 0;
    const server = await until(
      serveRaw((socket) => {
        connections++;
        socket.once("data", () => socket.resetAndDestroy());
      }),
    );
    expect(await fault(stack().send(options(server.url), get()))).toMatchObject({
      kind: "unreachable",
      code: "ECONNRESET",
    });
    expect(connections).toBe(1);
  });

  it("goes where other settings say, and keeps no old connection", async () => {
    const one = await until(serve((_, response) => void response.end("1")));
    const two = await until(serve((_, response) => void response.end("2")));
    const http = stack();
    await readAll(await http.send(options(one.url), get()), 10);
    expect((await readAll(await http.send(options(two.url), get()), 10)).toString()).toBe("2");
    await soon(() => one.sockets[0]?.destroyed === true);
  });
});

describe("an abort", () => {
  it("before anything is sent sends nothing", async () => {
    const server = await until(serve((_, response) => void response.end()));
    const error = await stack()
      .send(options(server.url), get({ signal: AbortSignal.abort() }))
      .catch((found: unknown) => found);
    expect(isAbort(error)).toBe(true);
    expect(server.seen).toHaveLength(0);
  });

  it("while the answer is awaited ends the connection at once", async () => {
    const server = await until(serve(() => {}));
    const stop = new AbortController();
    const work = stack().send(options(server.url), get({ signal: stop.signal }));
    await soon(() => server.seen.length === 1);
    const began = performance.now();
    stop.abort();
    expect(isAbort(await work.catch((found: unknown) => found))).toBe(true);
    await soon(() => server.sockets[0]?.destroyed === true);
    expect(performance.now() - began).toBeLessThan(1_500);
  });

  it("in the middle of the answer ends it with an AbortError", async () => {
    const server = await until(serve((_, response) => void response.write("a")));
    const stop = new AbortController();
    const answer = await stack().send(options(server.url), get({ signal: stop.signal }));
    const found: string[] = [];
    const error = await (async () => {
      for await (const chunk of answer.chunks()) {
        found.push(chunk.toString());
        stop.abort();
      }
    })().catch((thrown: unknown) => thrown);
    expect(found).toEqual(["a"]);
    expect(isAbort(error)).toBe(true);
    await soon(() => server.sockets[0]?.destroyed === true);
  });

  it("of an answer that nobody reads is no unhandled error", async () => {
    const server = await until(serve((_, response) => void response.write("a")));
    const stop = new AbortController();
    const answer = await stack().send(options(server.url), get({ signal: stop.signal }));
    stop.abort();
    await soon(() => server.sockets[0]?.destroyed === true);
    expect(isAbort(await readAll(answer, 10).catch((found: unknown) => found))).toBe(true);
  });

  it("after the end leaves the connection alone", async () => {
    const server = await until(serve((_, response) => void response.end("a")));
    const stop = new AbortController();
    const http = stack();
    await readAll(await http.send(options(server.url), get({ signal: stop.signal })), 10);
    stop.abort();
    expect((await http.send(options(server.url), get())).reused).toBe(true);
  });
});

describe("an answer", () => {
  it("that is left early ends the connection", async () => {
    const server = await until(serve((_, response) => void response.write("a")));
    const answer = await stack().send(options(server.url), get());
    for await (const _ of answer.chunks()) break;
    await soon(() => server.sockets[0]?.destroyed === true);
  });

  it("that is as good as complete keeps it, if it ends soon", async () => {
    const server = await until(
      serve((seen, response) => {
        response.write("a");
        if (seen.url === "/soon") setTimeout(() => response.end("rest"), 20);
      }),
    );
    const http = stack();
    for (const path of ["/soon", "/never"]) {
      const answer = await http.send(options(server.url), get({ path }));
      for await (const _ of answer.chunks()) {
        void answer.finish();
        break;
      }
      if (path === "/soon") await new Promise((resolve) => setTimeout(resolve, 600));
    }
    expect(server.sockets).toHaveLength(1);
    await soon(() => server.sockets[0]?.destroyed === true);
  });

  it("that breaks off is a fault", async () => {
    const server = await until(
      serve((_, response) => {
        response.writeHead(200, { "content-length": "100" });
        response.write("half", () => response.destroy());
      }),
    );
    const answer = await stack().send(options(server.url), get());
    expect(await fault(readAll(answer, 1000))).toMatchObject({ kind: "unreachable" });
    expect(await readError(await stack().send(options(server.url), get()))).toBe("half");
  });

  it("that is longer than it may be is a fault, and an error's body is cut", async () => {
    const server = await until(serve((_, response) => void response.end("x".repeat(200_000))));
    const http = stack();
    expect((await fault(readAll(await http.send(options(server.url), get()), 1000))).kind).toBe("protocol");
    expect(await readError(await http.send(options(server.url), get()))).toHaveLength(64 * 1024);
  });

  it("that does not come is a fault after the idle limit, before and after its head", async () => {
    const server = await until(
      serve((seen, response) => {
        if (seen.url === "/half") response.write("a");
      }),
    );
    const http = stack();
    expect(await fault(http.send(options(server.url), get({ idleMs: 60 })))).toMatchObject({
      kind: "unreachable",
      code: "idle",
    });
    const answer = await http.send(options(server.url), get({ path: "/half", idleMs: 500 }));
    expect(await fault(readAll(answer, 10))).toMatchObject({ kind: "unreachable", code: "idle" });
  });

  it("that comes in drops may take longer than the idle limit", async () => {
    const server = await until(
      serve(async (_, response) => {
        for (let at = 0; at < 6; at++) {
          response.write("x");
          await new Promise((resolve) => setTimeout(resolve, 300));
        }
        response.end();
      }),
    );
    const answer = await stack().send(options(server.url), get({ idleMs: 1_000 }));
    expect((await readAll(answer, 10)).toString()).toBe("xxxxxx");
  });
});

describe("no connection", () => {
  async function freePort(): Promise<number> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    await new Promise((resolve) => server.close(resolve));
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  it("refused: says where it looked, and on a remote how the other machine is reached", async () => {
    const port = await freePort();
    const here = await fault(stack().send(options(`http://127.0.0.1:${port}`), get()));
    expect(here).toMatchObject({ kind: "refused", message: `Nothing listens at 127.0.0.1:${port} on this machine.` });
    expect(here.fix).toContain("aicockpit serve");
    const there = await fault(stack().send(options(`http://localhost:${port}`, { remoteName: "ssh-remote" }), get()));
    expect(there.kind).toBe("refused");
    expect(there.message).toContain("the remote machine (SSH), where this extension runs");
    expect(there.fix).toContain(`ssh -R ${port}:127.0.0.1:${port}`);
  });

  it("unknown name", async () => {
    const found = await fault(stack({ ...LIMITS, connectMs: 5_000 }).send(options("http://gateway.invalid"), get()));
    expect(found.kind).toBe("dns");
    expect(found.message).toContain("gateway.invalid is not known");
  });

  it("no handshake: the limit of the connection, not of the answer", async () => {
    const server = await until(serveRaw((socket) => void socket.resume()));
    const found = await fault(stack().send(options(server.url.replace("http", "https")), get({ idleMs: 60_000 })));
    expect(found).toMatchObject({ kind: "unreachable", code: "connect_timeout" });
    await soon(() => server.sockets[0]?.destroyed === true);
  });

  it.each(["EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT", "EACCES"])("%s", (code) => {
    const where = { target: new URL("http://gw:8000"), remoteName: "wsl", proxy: undefined };
    const found = faultOf(Object.assign(new Error("connect"), { code }), where);
    expect(found).toMatchObject({ kind: "unreachable", code });
    expect(found.message).toContain("gw:8000");
    expect(found.message).toContain("WSL");
  });

  it.each(["not http at all\r\n\r\n", "\x15\x03\x01\x00\x02\x02\x46"])(
    "something that is not HTTP: %j",
    async (bytes) => {
      const server = await until(serveRaw((socket) => void socket.write(bytes)));
      expect(await fault(stack().send(options(server.url), get()))).toMatchObject({ kind: "protocol" });
    },
  );

  it("an address that is none", async () => {
    expect(await fault(stack().send(options("ftp://x"), get()))).toMatchObject({ code: "bad_address" });
  });
});
