import { rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Options } from "../../../src/api/client";
import { Fault } from "../../../src/api/fault";
import { Http, readAll } from "../../../src/api/http";
import type { ProxySources } from "../../../src/api/proxy";
import { readCertificates, roots, secureContext } from "../../../src/api/trust";
import {
  type Certificates,
  makeCertificates,
  NO_PROXIES,
  options,
  type Pair,
  type ProxyLog,
  type Running,
  serve,
  serveProxy,
  serveRaw,
} from "./servers";

let made: Certificates;
const open: { close(): Promise<void> }[] = [];
const stacks: Http[] = [];

beforeAll(() => {
  made = makeCertificates();
}, 30_000);
afterAll(() => rmSync(made.folder, { recursive: true }));
afterEach(async () => {
  for (const http of stacks.splice(0)) http.dispose();
  for (const server of open.splice(0)) await server.close();
});

async function secure(pair: Pair | undefined): Promise<Running> {
  const server = await serve((seen, response) => void response.end(`${seen.method} ${seen.url}`), pair);
  open.push(server);
  return server;
}

async function through(target: Running, refusal?: Parameters<typeof serveProxy>[1]): Promise<ProxyLog> {
  const proxy = await serveProxy(target, refusal);
  open.push(proxy);
  return proxy;
}

function ask(
  address: string,
  more: Partial<Options> = {},
  http = new Http({ connectMs: 2_000, finishMs: 200, keepMs: 60_000 }),
) {
  stacks.push(http);
  return http.send(options(address, more), { method: "GET", path: "/x?y", headers: {}, idleMs: 2_000 });
}

async function text(address: string, more: Partial<Options> = {}): Promise<string> {
  return (await readAll(await ask(address, more), 1000)).toString();
}

async function fault(address: string, more: Partial<Options> = {}): Promise<Fault> {
  const error = await ask(address, more).catch((found: unknown) => found);
  expect(error).toBeInstanceOf(Fault);
  return error as Fault;
}

function via(proxy: ProxyLog, more: Partial<ProxySources> = {}): ProxySources {
  return { ...NO_PROXIES, setting: proxy.url, ...more };
}

describe("a certificate", () => {
  it("of its own is refused, and taken with the CA file", async () => {
    const server = await secure(made.selfSigned);
    expect(await fault(server.url)).toMatchObject({ kind: "tls", code: "DEPTH_ZERO_SELF_SIGNED_CERT" });
    expect((await fault(server.url)).fix).toContain("aicockpit.caFile");
    expect(await text(server.url, { caFile: made.selfSigned.file })).toBe("GET /x?y");
  });

  it("of an own authority is taken with the authority's file, and connections are kept", async () => {
    const server = await secure(made.signed);
    expect(await fault(server.url)).toMatchObject({ kind: "tls", code: "UNABLE_TO_VERIFY_LEAF_SIGNATURE" });
    const http = new Http();
    for (const reused of [false, true]) {
      const answer = await ask(server.url, { caFile: made.authority }, http);
      expect(answer.reused).toBe(reused);
      expect(answer.certificateEnds()).toBeGreaterThan(Date.now());
      await readAll(answer, 100);
    }
  });

  it("that has expired", async () => {
    const found = await fault((await secure(made.expired)).url, { caFile: made.authority });
    expect(found).toMatchObject({ kind: "tls", code: "CERT_HAS_EXPIRED" });
    expect(found.message).toContain("expired");
  });

  it("for another name", async () => {
    const found = await fault((await secure(made.otherName)).url, { caFile: made.otherName.file });
    expect(found).toMatchObject({ kind: "tls", code: "ERR_TLS_CERT_ALTNAME_INVALID" });
    expect(found.fix).toContain("elsewhere.test");
  });
});

describe("the wrong one of http and https", () => {
  it("https to a server of http", async () => {
    const server = await secure(undefined);
    const found = await fault(server.url.replace("http:", "https:"));
    expect(found.kind).toBe("tls");
    expect(found.fix).toContain(server.url);
  });

  it("http to a server of https", async () => {
    const server = await secure(made.selfSigned);
    const found = await fault(server.url.replace("https:", "http:"));
    expect(["unreachable", "protocol"]).toContain(found.kind);
    expect(found.fix).toContain("https");
  });
});

describe("a CA file", () => {
  it("that is missing or no PEM is named", async () => {
    const server = await secure(made.selfSigned);
    expect(await fault(server.url, { caFile: "/nowhere/ca.pem" })).toMatchObject({ kind: "tls", code: "ca_file" });
    const empty = join(made.folder, "empty.pem");
    writeFileSync(empty, "hello");
    expect((await fault(server.url, { caFile: empty })).message).toContain("no certificate");
    const broken = join(made.folder, "broken.pem");
    writeFileSync(broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    expect((await fault(server.url, { caFile: broken })).kind).toBe("tls");
  });

  it("that was wrong and is put right counts at the next request", async () => {
    const server = await secure(made.selfSigned);
    const file = join(made.folder, "later.pem");
    const http = new Http();
    writeFileSync(file, made.otherName.cert);
    await expect(ask(server.url, { caFile: file }, http)).rejects.toMatchObject({ kind: "tls" });
    writeFileSync(file, made.selfSigned.cert);
    utimesSync(file, 1, 1);
    expect((await ask(server.url, { caFile: file }, http)).status).toBe(200);
  });

  it("may hold several certificates, and other text", () => {
    const both = join(made.folder, "both.pem");
    writeFileSync(both, `# ours\n${made.selfSigned.cert}\ntext\n${made.otherName.cert}`);
    expect(readCertificates(both)).toHaveLength(2);
    expect(() => secureContext(both, {})).not.toThrow();
  });
});

describe("what is trusted", () => {
  it("is what Node and the system trust, each once", () => {
    const store = (kind: "default" | "system") => (kind === "default" ? ["a", "b\n"] : ["b", "c"]);
    expect(roots({}, store)).toEqual(["a", "b", "c"]);
    expect(roots({}).length).toBeGreaterThan(50);
  });

  it("is, on an older Node, what it brings and the extra file", () => {
    const without = roots({}, null);
    expect(without.length).toBeGreaterThan(50);
    expect(roots({ NODE_EXTRA_CA_CERTS: "/nowhere.pem" }, null)).toEqual(without);
    expect(roots({ NODE_EXTRA_CA_CERTS: made.selfSigned.file }, null)).toEqual([
      ...without,
      made.selfSigned.cert.trim(),
    ]);
  });
});

describe("a proxy", () => {
  it("gets whole URLs for http, and the target's own host in the headers", async () => {
    const server = await secure(undefined);
    const proxy = await through(server);
    const address = `http://gateway.test:${server.port}`;
    expect(await text(address, { proxy: via(proxy) })).toBe("GET /x?y");
    expect(proxy.asked).toEqual([{ line: `GET ${address}/x?y`, authorization: undefined }]);
    expect(server.seen[0]?.headers.host).toBe(`gateway.test:${server.port}`);
  });

  it("gets CONNECT for https, and the certificate is the target's; the tunnel is kept", async () => {
    const server = await secure(made.signed);
    const proxy = await through(server);
    const address = `https://gateway.test:${server.port}`;
    const more = { proxy: via(proxy), caFile: made.authority };
    const http = new Http();
    for (const reused of [false, true]) {
      const answer = await ask(address, more, http);
      expect((await readAll(answer, 100)).toString()).toBe("GET /x?y");
      expect(answer.reused).toBe(reused);
    }
    expect(proxy.asked).toEqual([{ line: `CONNECT gateway.test:${server.port}`, authorization: undefined }]);
    expect(await fault(address, { proxy: via(proxy) })).toMatchObject({ kind: "tls" });
  });

  it.each(["http", "https"])("that wants credentials says so, and takes them from its address (%s)", async (scheme) => {
    const server = await secure(scheme === "https" ? made.signed : undefined);
    const proxy = await through(server, { status: 407, credentials: "me:s3cret/" });
    const address = `${scheme}://gateway.test:${server.port}`;
    const caFile = scheme === "https" ? made.authority : "";
    const found = await fault(address, { proxy: via(proxy), caFile });
    expect(found).toMatchObject({ kind: "proxy", status: 407 });
    expect(found.fix).toContain("NAME:PASSWORD");
    const setting = `http://me:s3cret%2F@127.0.0.1:${proxy.port}`;
    expect(await text(address, { proxy: via(proxy, { setting }), caFile })).toBe("GET /x?y");
  });

  it("that refuses the tunnel is named without its password", async () => {
    const server = await secure(made.signed);
    const proxy = await through(server, { status: 403 });
    const setting = `http://me:s3cret@127.0.0.1:${proxy.port}`;
    const found = await fault(`https://gateway.test:${server.port}`, { proxy: via(proxy, { setting }) });
    expect(found).toMatchObject({ kind: "proxy", status: 403 });
    expect(found.message).toContain(`http://127.0.0.1:${proxy.port} (from aicockpit.proxy)`);
    expect(found.message + found.fix).not.toContain("s3cret");
  });

  it("that is not there is the one that is blamed", async () => {
    const server = await secure(undefined);
    const proxy = await through(server);
    await proxy.close();
    const found = await fault(`http://gateway.test:${server.port}`, { proxy: via(proxy) });
    expect(found.kind).toBe("proxy");
    expect(found.fix).toContain("NO_PROXY");
  });

  it("is left out for this machine's own addresses", async () => {
    const server = await secure(undefined);
    const proxy = await through(server);
    expect(await text(server.url, { proxy: via(proxy) })).toBe("GET /x?y");
    expect(proxy.asked).toEqual([]);
  });

  it.each(["http", "https"])(
    "and other servers far away have a connection ready again after an abort (%s)",
    async (scheme) => {
      const server = await serve(
        (seen, response) => {
          if (seen.url !== "/slow") response.end("yes");
        },
        scheme === "https" ? made.signed : undefined,
      );
      open.push(server);
      const proxy = await through(server);
      const more = { proxy: via(proxy), caFile: scheme === "https" ? made.authority : "" };
      const far = options(`${scheme}://gateway.test:${server.port}`, more);
      const http = new Http();
      stacks.push(http);
      const stop = new AbortController();
      const slow = http.send(far, { method: "GET", path: "/slow", headers: {}, idleMs: 2_000, signal: stop.signal });
      while (server.seen.length < 1) await new Promise((resolve) => setTimeout(resolve, 2));
      stop.abort();
      await expect(slow).rejects.toMatchObject({ name: "AbortError" });
      while (server.seen.length < 2) await new Promise((resolve) => setTimeout(resolve, 2));
      await new Promise((resolve) => setTimeout(resolve, 300));
      const answer = await http.send(far, { method: "GET", path: "/x", headers: {}, idleMs: 2_000 });
      expect(answer.reused).toBe(true);
      expect(server.seen.map((one) => one.url)).toEqual(["/slow", "/health", "/x"]);
      await readAll(answer, 10);
    },
  );

  it("that never answers is given up", async () => {
    const silent = await serveRaw(() => {});
    open.push(silent);
    const http = new Http({ connectMs: 100, finishMs: 100, keepMs: 1_000 });
    const error = await ask("https://gateway.test", { proxy: { ...NO_PROXIES, setting: silent.url } }, http).catch(
      (found: unknown) => found,
    );
    expect(error).toMatchObject({ kind: "proxy" });
  });
});
