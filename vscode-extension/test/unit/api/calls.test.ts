import { mkdtempSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterEach, describe, expect, it } from "vitest";
import { frames, manifestBody } from "../../../src/api/bodies";
import { createGateway } from "../../../src/api/client";
import { Fault } from "../../../src/api/fault";
import { Http } from "../../../src/api/http";
import { always, bodyOf, type Closable, fault, gatewayAt } from "./clients";
import { type Handler, json, modelServer, options, refuse, serve } from "./servers";

const open: Closable[] = [];
const gateway = (handler: Handler, key?: string) => gatewayAt(open, handler, key);

afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

describe("an error", () => {
  it.each([
    [401, "missing_api_key", "unauthorized", /asks for a key/, /Enter the Key/],
    [401, "invalid_api_key", "unauthorized", /does not know this key/, /keys create/],
    [403, "workspace_read_only", "forbidden", /No way\./, /key/],
    [403, "foreign_origin", "forbidden", /No way/, /127\.0\.0\.1/],
    [404, "model_not_found", "no_model", /No way/, /aicockpit\.chat\.model/],
    [404, "no_route", "not_found", /No way/, /new enough/],
    [409, "revision_conflict", "conflict", /No way/, /again/],
    [413, "body_too_large", "bad_request", /No way/, /message/],
    [429, "overloaded", "busy", /No way/, /in 3 s/],
    [499, "superseded", "superseded", /No way/, /newer/],
    [500, "internal_error", "server", /No way/, /log/],
    [503, "starting", "busy", /No way/, /in 3 s/],
    [507, "disk_full", "server", /No way/, /log/],
  ])("%i %s is %s, with words", async (status, code, kind, message, fix) => {
    const { client } = await gateway((_, response) => refuse(response, status, code, "no way", { "retry-after": "3" }));
    const found = await fault(client.models());
    expect(found).toMatchObject({ kind, status, code, retryAfterS: 3 });
    expect(found.message).toMatch(message);
    expect(found.fix).toMatch(fix);
  });

  it("in other shapes still says what is known", async () => {
    const shapes: [string, string, RegExp][] = [
      ["application/json", '{"detail":"Not here"}', /Not here\./],
      ["application/json", '{"object":"error","message":"old style","code":404}', /Old style\./],
      ["text/plain", "plain words", /Plain words\./],
      ["text/html", "<html>nginx</html>", /There is no \/v1\/models/],
      ["text/plain", "", /There is no \/v1\/models/],
    ];
    for (const [type, body, message] of shapes) {
      const { client } = await gateway((_, response) => {
        response.writeHead(404, { "content-type": type, "retry-after": "Fri, 31 Dec 2999 23:59:59 GMT" });
        response.end(body);
      });
      const found = await fault(client.models());
      expect(found.kind).toBe("not_found");
      expect(found.message).toMatch(message);
      expect(found.retryAfterS).toBeGreaterThan(1e6);
    }
    const { client } = await gateway(
      (_, response) => void response.writeHead(502, { "content-type": "text/html" }).end("<html>bad</html>"),
    );
    expect((await fault(client.models())).message).toContain("502 with a web page");
  });

  it("of a redirect names the other place and does not go there", async () => {
    const other = await serve(always({ data: [] }));
    open.push(other);
    const { client } = await gateway(
      (_, response) => void response.writeHead(302, { location: `${other.url}/v1/models` }).end(),
    );
    const found = await fault(client.models());
    expect(found).toMatchObject({ kind: "protocol", code: "redirect" });
    expect(found.fix).toContain(other.url);
    expect(other.seen).toHaveLength(0);
  });

  it("of plain http to an https port is told by the server's page", async () => {
    const { client } = await gateway(
      (_, response) => void response.writeHead(400).end("<html>The plain HTTP request was sent to HTTPS port</html>"),
    );
    expect((await fault(client.models())).fix).toContain("https://");
  });
});

describe("the other calls", () => {
  it("leave out the names with a workspace, and take what is not told as unknown", async () => {
    const cards = [
      { id: "a", max_model_len: 10, role: "chat", ready: false },
      { id: "a@repo", workspace: "repo" },
      { id: "b" },
    ];
    const { client } = await gateway(always({ data: cards }));
    expect(await client.models()).toEqual([
      { id: "a", maxLength: 10, role: "chat", ready: false },
      { id: "b", maxLength: undefined, role: undefined, ready: undefined },
    ]);
  });

  it("look whether a model is there, and else why not", async () => {
    const card = { id: "a", ready: false };
    const one = await gateway(modelServer({ models: [card], ready: false, reason: "loading 40 %" }), "");
    expect(await one.client.look()).toMatchObject({ ready: false, reason: "loading 40 %" });
    const two = await gateway(modelServer({ models: [card], ready: true, reason: "a request brings it back" }), "");
    expect(await two.client.look()).toMatchObject({ ready: true });
    const three = await gateway(modelServer({ models: [], plain: true }), "");
    expect(await three.client.look()).toMatchObject({ ready: false, reason: "no model is served" });
    const four = await gateway(modelServer({ models: [{ id: "x" }], plain: true }), "");
    expect(await four.client.look()).toMatchObject({ ready: true });
    expect(four.server.seen).toHaveLength(1);
  });

  it("read the account of a request, or that it is not known", async () => {
    const account = {
      id: "req-1",
      status: 200,
      engine: "gpu0",
      choice: "warm",
      first_byte_s: 0.1,
      total_s: 0.4,
      context: {
        workspace: "w",
        reason: "warm",
        pack_tokens: 5,
        similar_tokens: 2,
        prompt_tokens: 9,
        cached_tokens: null,
      },
    };
    const { server, client } = await gateway((seen, response) =>
      seen.url.endsWith("req-1") ? json(response, account) : refuse(response, 404, "request_not_found", "no"),
    );
    expect(await client.account("req-1")).toMatchObject({
      engine: "gpu0",
      waitedS: undefined,
      totalS: 0.4,
      context: {
        workspace: "w",
        why: "warm",
        promptTokens: 9,
        cachedTokens: undefined,
        segments: { pack: 5, similar: 2 },
      },
    });
    expect(await client.account("a/b")).toBeUndefined();
    expect(server.seen[1]?.url).toBe("/api/requests/a%2Fb");
  });

  it("read a workspace's lanes", async () => {
    const lane = {
      state: "warming",
      reason: "",
      epoch: { tokens: 4000, files_in_pack: 12, journal_tokens: 30 },
      engines: { one: { resident_fraction: 0.25, reason: "computing" }, two: { resident_fraction: 0.75 }, three: {} },
      predicted_ttft_s: 0.2,
      last_save_to_warm_s: null,
    };
    const models = {
      coder: { style: "qwen", reason: "", lanes: { completion: lane, chat: { state: "off", reason: "no room" } } },
      other: { style: null, reason: "no tokenizer", lanes: {} },
    };
    const status = { name: "w", revision: 3, files: 10, bytes: 99, context: { models } };
    const { client } = await gateway((seen, response) =>
      seen.url === "/api/workspaces/my%20repo"
        ? json(response, status)
        : refuse(response, 404, "workspace_not_found", "no"),
    );
    const found = await client.workspace("my repo");
    expect(found).toMatchObject({ name: "w", revision: 3, files: 10, bytes: 99 });
    expect(found?.lanes.map((one) => [one.model, one.lane, one.state, one.reason])).toEqual([
      ["coder", "completion", "warming", "computing"],
      ["coder", "chat", "off", "no room"],
      ["other", "", "off", "no tokenizer"],
    ]);
    expect(found?.lanes[0]).toMatchObject({
      resident: 0.75,
      packTokens: 4000,
      filesInPack: 12,
      journalTokens: 30,
      predictedTtftS: 0.2,
      lastSaveToWarmS: undefined,
    });
    expect(await client.workspace("nothing")).toBeUndefined();
    await client.deleteWorkspace("nothing");
  });

  it("make a workspace, and read one of a server that keeps nothing warm", async () => {
    const { server, client } = await gateway(always({ name: "w", revision: 0, files: 0, bytes: 0, context: {} }, 201));
    expect((await client.createWorkspace("w")).lanes).toEqual([]);
    expect(server.seen[0]).toMatchObject({ method: "PUT", url: "/api/workspaces/w" });
  });

  it("send a manifest with nanoseconds that no number holds", async () => {
    const hash = "0123456789abcdef0123456789abcdef";
    const { server, client } = await gateway(
      always({ applied: false, revision: 4, missing: [hash], missing_count: 7 }),
    );
    const answer = await client.manifest("w", 3, [['a"ü\n.ts', hash, 5, 1_700_000_000_123_456_789n]], ["gone"]);
    expect(answer).toEqual({ applied: false, revision: 4, missing: [hash], missingCount: 7 });
    const seen = server.seen[0];
    expect(seen).toMatchObject({
      url: "/api/workspaces/w/manifest",
      headers: { "content-encoding": "gzip", "content-type": "application/json" },
    });
    const body = gunzipSync(seen?.body ?? Buffer.alloc(0)).toString();
    expect(body).toContain("1700000000123456789]");
    expect(JSON.parse(body)).toMatchObject({
      base: 3,
      files: [['a"ü\n.ts', hash, 5, expect.anything()]],
      removed: ["gone"],
    });
    expect(String(await manifestBody(null, [], []))).toBe('{"base":null,"files":[],"removed":[]}');
  });

  it("make a long manifest in pieces", async () => {
    const files = Array.from({ length: 60_000 }, (_, n) => [`folder/ü${n}.ts`, "ab".repeat(16), n, BigInt(n)] as const);
    let turns = 0;
    const timer = setInterval(() => {
      turns += 1;
    }, 1);
    const body = await manifestBody(7, files, ["gone"]);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(0);
    const { base, files: rows, removed } = JSON.parse(String(body));
    expect([base, rows.length, removed]).toEqual([7, files.length, ["gone"]]);
    expect(rows.at(-1)).toEqual(["folder/ü59999.ts", "ab".repeat(16), 59_999, 59_999]);
  });

  it("know a conflict of revisions, and an answer that is none", async () => {
    const one = await gateway((_, response) => refuse(response, 409, "revision_conflict", "at 9"));
    expect(await fault(one.client.manifest("w", 1, [], []))).toMatchObject({ kind: "conflict" });
    const two = await gateway(always({ applied: true, revision: 1, missing: ["../x"] }));
    expect((await fault(two.client.manifest("w", 1, [], []))).message).toContain("no hash");
  });

  it("send contents as frames", async () => {
    const { server, client } = await gateway(always({ stored: 2, known: 0 }));
    const one = { hash: "00112233445566778899aabbccddeeff", content: Buffer.from("hello") };
    await client.blobs("w", [one, { hash: "ff".repeat(16), content: new Uint8Array() }]);
    expect(server.seen[0]).toMatchObject({
      url: "/api/workspaces/w/blobs",
      headers: { "content-encoding": "gzip", "content-type": "application/octet-stream" },
    });
    const body = gunzipSync(server.seen[0]?.body ?? Buffer.alloc(0));
    expect(body.toString("hex")).toBe(
      `00112233445566778899aabbccddeeff00000005${Buffer.from("hello").toString("hex")}${"ff".repeat(16)}00000000`,
    );
    expect(() => frames([{ hash: "xy", content: new Uint8Array() }])).toThrow("no hash");
  });

  it("tell which file is open", async () => {
    const { server, client } = await gateway(always({}, 202));
    await client.focus("w", "a.ts", 3, "m");
    await client.focus("w", "a.ts");
    expect([bodyOf(server), bodyOf(server, 1)]).toEqual([{ path: "a.ts", line: 3, model: "m" }, { path: "a.ts" }]);
  });

  it("ask the server to watch a folder of its own machine", async () => {
    const folder = mkdtempSync(join(tmpdir(), "aicockpit-folder-"));
    const { dev, ino } = statSync(folder);
    for (const [status, can] of [
      [200, true],
      [201, true],
      [202, true],
      [403, false],
      [404, false],
      [405, false],
      [409, false],
    ] as const) {
      const { server, client } = await gateway((_, response) =>
        status < 300 ? json(response, {}, status) : refuse(response, status, "x", "no"),
      );
      expect(await client.watchHere("w", folder)).toBe(can);
      expect(server.seen[0]).toMatchObject({
        method: "PUT",
        url: "/api/workspaces/w/folder",
        headers: { "content-type": "application/json" },
      });
      expect(bodyOf(server)).toEqual({ path: folder, device: dev, inode: ino });
    }
    const { server, client } = await gateway((_, response) => refuse(response, 500, "x", "no"));
    expect((await fault(client.watchHere("w", folder))).kind).toBe("server");
    expect(await client.watchHere("w", join(folder, "missing"))).toBe(false);
    await expect(client.unwatch("w")).rejects.toBeInstanceOf(Fault);
    expect(server.seen).toHaveLength(2);
  });

  it("stop watching, also where nothing was watched", async () => {
    const gone = await gateway((_, response) => refuse(response, 404, "x", "no"));
    await gone.client.unwatch("w");
    const there = await gateway((_, response) => void response.writeHead(204).end());
    await there.client.unwatch("w");
    expect(there.server.seen[0]).toMatchObject({ method: "DELETE", url: "/api/workspaces/w/folder" });
  });
});

describe("documentation", () => {
  const source = {
    id: "d1",
    name: "Vue",
    from: "https://vue.test",
    state: "indexing",
    pages: 3,
    chunks: 9,
    problems: ["x: 404"],
    error: null,
  };

  it("is listed, added, uploaded, cancelled, removed and searched", async () => {
    const { server, client } = await gateway((seen, response) => {
      if (seen.url === "/api/docs/search")
        return json(response, { hits: [{ source: "d1", title: "T", url: "u", text: "t", score: 0.5 }] });
      if (seen.method === "DELETE") return void response.writeHead(204).end();
      if (seen.url === "/api/docs/none") return refuse(response, 404, "docs_not_found", "no");
      return json(response, seen.method === "GET" && seen.url === "/api/docs" ? { docs: [source] } : source);
    });
    const read = { ...source, error: undefined };
    expect(await client.docs()).toEqual([read]);
    expect(await client.addDocs("Vue", "https://vue.test")).toEqual(read);
    expect(await client.uploadDocs("My docs & more", "a b.zip", Buffer.from([1, 2]))).toEqual(read);
    expect(await client.doc("d1")).toEqual(read);
    expect(await client.doc("none")).toBeUndefined();
    await client.cancelDocs("d1");
    await client.removeDocs("d1");
    expect(await client.searchDocs("q", ["d1"], 6)).toEqual([
      { source: "d1", title: "T", url: "u", text: "t", score: 0.5 },
    ]);
    expect(server.seen.map((one) => `${one.method} ${one.url}`)).toEqual([
      "GET /api/docs",
      "POST /api/docs",
      "POST /api/docs/upload?name=My+docs+%26+more&file=a+b.zip",
      "GET /api/docs/d1",
      "GET /api/docs/none",
      "POST /api/docs/d1/cancel",
      "DELETE /api/docs/d1",
      "POST /api/docs/search",
    ]);
    expect(bodyOf(server, 1)).toEqual({ name: "Vue", url: "https://vue.test" });
    expect(server.seen[2]).toMatchObject({
      headers: { "content-type": "application/octet-stream" },
      body: Buffer.from([1, 2]),
    });
    expect(bodyOf(server, 7)).toEqual({ query: "q", sources: ["d1"], limit: 6 });
  });

  it("in a shape that is not known is named", async () => {
    const { client } = await gateway(always({ docs: [{ ...source, state: "dancing" }] }));
    expect((await fault(client.docs())).message).toContain("docs[0].state is “dancing”");
    const other = await gateway(always({ docs: [{ ...source, pages: "3" }] }));
    expect((await fault(other.client.docs())).message).toContain("docs[0].pages is a text where a number belongs");
  });
});

it("asks before it sends, and follows the settings", async () => {
  const one = await serve(always({ data: [] }));
  open.push(one);
  let allowed = false;
  let address = "http://127.0.0.1:9";
  const client = createGateway(
    () => options(address),
    new Http(),
    async () => {
      if (!allowed) throw new Fault("forbidden", "no", "trust it");
    },
  );
  expect(await fault(client.models())).toMatchObject({ kind: "forbidden" });
  allowed = true;
  address = one.url;
  expect(client.address).toBe(one.url);
  expect(await client.models()).toEqual([]);
});
