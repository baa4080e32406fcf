import { afterEach, describe, expect, it, vi } from "vitest";
import { collect } from "../../../src/api/collect";
import { type Fault, isAbort } from "../../../src/api/fault";
import { always, bodyOf, type Closable, fault, gatewayAt } from "./clients";
import { events, type Handler, modelServer, refuse } from "./servers";

const open: Closable[] = [];
const gateway = (handler: Handler, key?: string) => gatewayAt(open, handler, key);

afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

const never = new AbortController().signal;
const PLACE = { workspace: "repo", path: "src/a.ts", context: "auto" };

describe("a completion", () => {
  it("sends prefix, suffix, place and slot, and reads text, end and usage", async () => {
    const { server, client } = await gateway((_, response) =>
      events(
        response,
        [
          { choices: [{ index: 0, text: "a", finish_reason: null }] },
          { choices: [{ index: 0, text: "b", finish_reason: "stop" }] },
          {
            choices: [],
            usage: { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 8 } },
          },
          "[DONE]",
        ],
        { "x-request-id": "req-7", "x-aicockpit-context": "12 tokens; warm", "x-aicockpit-fim": "qwen" },
      ),
    );
    const request = { model: "m", prefix: "p", suffix: "s", maxTokens: 5, stop: ["\n"], place: PLACE, slot: "file" };
    const stream = await client.complete(request, never);
    expect(stream.requestId).toBe("req-7");
    expect(stream.headers).toMatchObject({ "x-aicockpit-context": "12 tokens; warm", "x-aicockpit-fim": "qwen" });
    const heard: string[] = [];
    expect(await collect(stream, (all) => heard.push(all))).toEqual({
      text: "ab",
      finish: "stop",
      usage: { prompt: 9, cached: 8, completion: 2 },
    });
    expect(heard).toEqual(["a", "ab"]);
    expect(server.seen[0]).toMatchObject({
      method: "POST",
      url: "/v1/completions",
      headers: {
        authorization: "Bearer k",
        "x-aicockpit-slot": expect.stringMatching(/^[0-9a-f]{8}-file$/),
        "content-type": "application/json",
      },
    });
    expect(server.seen[0]?.headers["x-request-id"]).toMatch(/^code-[0-9a-f-]{36}$/);
    expect(bodyOf(server)).toEqual({
      model: "m",
      prompt: "p",
      suffix: "s",
      max_tokens: 5,
      temperature: 0,
      stop: ["\n"],
      ...PLACE,
      stream: true,
      stream_options: { include_usage: true },
    });
    expect(() => stream[Symbol.asyncIterator]()).toThrow("once");
  });

  it("has slots of this window only, of any name", async () => {
    const handler: Handler = (_, response) =>
      events(response, [{ choices: [{ index: 0, text: "", finish_reason: "stop" }] }, "[DONE]"]);
    const one = await gateway(handler);
    const two = await gateway(handler);
    for (const { client } of [one, two]) {
      for (const slot of ["ä b", "x".repeat(300)]) {
        await collect(await client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 1, slot }, never));
      }
    }
    const slots = [...one.server.seen, ...two.server.seen].map((seen) => String(seen.headers["x-aicockpit-slot"]));
    expect(new Set(slots).size).toBe(4);
    expect(slots[0]).toMatch(/-%C3%A4%20b$/);
    expect(Math.max(...slots.map((slot) => slot.length))).toBeLessThan(128);
  });

  it("of several candidates tells them apart, and is not greedy", async () => {
    const { server, client } = await gateway((_, response) =>
      events(response, [
        { choices: [{ index: 1, text: "b1" }] },
        {
          choices: [
            { index: 0, text: "a1" },
            { index: 1, text: "b2", finish_reason: "stop" },
          ],
        },
        { choices: [{ index: 0, text: "a2", finish_reason: "stop" }] },
        "[DONE]",
      ]),
    );
    const stream = await client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 5, candidates: 2 }, never);
    const texts = ["", ""];
    for await (const piece of stream) texts[piece.index] += piece.text;
    expect(texts).toEqual(["a1a2", "b1b2"]);
    expect(bodyOf(server)).toMatchObject({ n: 2, temperature: 0.4 });
    expect(bodyOf(server)).not.toHaveProperty("suffix");
  });

  it("goes on without the suffix where a server cannot use it, and remembers for some minutes", async () => {
    const { server, client } = await gateway(modelServer({ plain: true }), "");
    const request = { model: "coder", prefix: "p", suffix: "s", maxTokens: 5 };
    for (let times = 0; times < 2; times++)
      expect((await collect(await client.complete(request, never))).text).toBe("a + b");
    expect(server.seen.map((one) => "suffix" in JSON.parse(one.body.toString()))).toEqual([true, false, false]);
    const now = performance.now();
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now + 600_000);
    await collect(await client.complete(request, never));
    clock.mockRestore();
    expect(server.seen.slice(3).map((one) => "suffix" in JSON.parse(one.body.toString()))).toEqual([true, false]);
    expect(server.seen[0]?.headers).not.toHaveProperty("authorization");
  });

  it("is answered without context when the workspace is gone", async () => {
    const { server, client } = await gateway((seen, response) => {
      if ("workspace" in JSON.parse(seen.body.toString())) return refuse(response, 404, "workspace_not_found", "gone");
      return events(response, [{ choices: [{ index: 0, text: "a", finish_reason: "stop" }] }, "[DONE]"]);
    });
    const stream = await client.complete({ model: "m", prefix: "p", suffix: "s", maxTokens: 5, place: PLACE }, never);
    expect((await collect(stream)).text).toBe("a");
    expect(bodyOf(server, 1)).toMatchObject({ suffix: "s", stream: true });
    expect(bodyOf(server, 1)).not.toHaveProperty("path");
  });

  it("keeps its connection for the next when read to its end or left after it", async () => {
    const { server, client } = await gateway((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write('data: {"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}\n\n');
      setTimeout(() => response.end("data: [DONE]\n\n"), 10);
    });
    const request = { model: "m", prefix: "p", suffix: "", maxTokens: 5 };
    await collect(await client.complete(request, never));
    for await (const _ of await client.complete(request, never)) break;
    await new Promise((resolve) => setTimeout(resolve, 500));
    await collect(await client.complete(request, never));
    expect(server.sockets).toHaveLength(1);
  });

  it("that is left before its end ends at the server", async () => {
    let left = false;
    const { client } = await gateway((_, response) => {
      response.on("close", () => {
        left = true;
      });
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write('data: {"choices":[{"index":0,"text":"a"}]}\n\n');
    });
    for await (const _ of await client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 5 }, never)) break;
    for (let wait = 0; !left && wait < 100; wait++) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(left).toBe(true);
  });

  it("that is aborted throws an AbortError", async () => {
    const { client } = await gateway(() => {});
    const stop = new AbortController();
    const work = client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 5 }, stop.signal);
    setTimeout(() => stop.abort(), 20);
    expect(isAbort(await work.catch((found: unknown) => found))).toBe(true);
  });
});

describe("a streamed answer that goes wrong", () => {
  async function read(data: readonly unknown[]): Promise<Fault> {
    const { client } = await gateway((_, response) => events(response, data));
    return await fault(collect(await client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 5 }, never)));
  }
  const piece = { choices: [{ index: 0, text: "a" }] };

  it("tells the error that comes in the middle", async () => {
    expect(await read([piece, { error: { message: "a newer request came", code: "superseded" } }])).toMatchObject({
      kind: "superseded",
    });
    expect(await read([piece, { error: { message: "engine died", code: "engine_failed" } }])).toMatchObject({
      kind: "server",
      message: "Engine died.",
    });
    expect(await read([{ error: { message: "too long", code: 400 } }])).toMatchObject({ kind: "bad_request" });
    expect(await read([{ error: "out of memory" }])).toMatchObject({ kind: "server", message: "Out of memory." });
  });

  it("is not taken for a whole one when it breaks off", async () => {
    expect(await read([piece])).toMatchObject({ kind: "server", code: "cut_short" });
  });

  it("is a whole one with an end but no end mark", async () => {
    const { client } = await gateway((_, response) =>
      events(response, [{ choices: [{ index: 0, text: "a", finish_reason: "length" }] }]),
    );
    expect(
      (await collect(await client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 5 }, never))).finish,
    ).toBe("length");
  });

  it.each([
    ["no JSON", "{", "not JSON"],
    ["a list", [], "object belongs"],
    ["a text that is none", { choices: [{ index: 0, text: 5 }] }, "choices[0].text is a number where a text belongs"],
    ["an index that is none", { choices: [{ index: -1, text: "" }] }, "index"],
  ])("names %s", async (_, data, words) => {
    const found = await read([data]);
    expect(found.kind).toBe("protocol");
    expect(found.message).toContain(words);
  });

  it("is no stream at all", async () => {
    const one = await gateway(always({ choices: [] }));
    expect(
      (await fault(one.client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 5 }, never))).message,
    ).toContain("stream");
    const page = await gateway((_, response) => {
      response.writeHead(200, { "content-type": "text/html" });
      response.end("<html>log in</html>");
    });
    expect(
      await fault(page.client.complete({ model: "m", prefix: "p", suffix: "", maxTokens: 5 }, never)),
    ).toMatchObject({ code: "html" });
  });
});

describe("a chat", () => {
  it("sends messages and lane, and keeps thoughts apart", async () => {
    const { server, client } = await gateway((_, response) =>
      events(response, [
        { choices: [{ index: 0, delta: { role: "assistant", content: "" } }] },
        { choices: [{ index: 0, delta: { reasoning_content: "hm" } }] },
        { choices: [{ index: 0, delta: { reasoning: "so" } }] },
        { choices: [{ index: 0, delta: { content: "yes" } }] },
        {
          choices: [{ index: 0, delta: {}, finish_reason: "stop" }],
          usage: { prompt_tokens: 3, completion_tokens: 1 },
        },
        "[DONE]",
      ]),
    );
    const messages = [{ role: "user", content: "?" }] as const;
    const request = {
      model: "m",
      messages,
      maxTokens: 9,
      temperature: 0.5,
      lane: "background",
      stop: ["x"],
      place: { workspace: "w" },
    } as const;
    const found = [];
    for await (const one of await client.chat(request, never)) found.push(one);
    expect(found.map((one) => one.reasoning ?? one.text)).toEqual(["", "hm", "so", "yes", ""]);
    expect(found.at(-1)).toEqual({
      text: "",
      index: 0,
      finish: "stop",
      usage: { prompt: 3, cached: undefined, completion: 1 },
    });
    expect(server.seen[0]?.headers["x-aicockpit-lane"]).toBe("background");
    expect(bodyOf(server)).toMatchObject({
      messages,
      max_tokens: 9,
      temperature: 0.5,
      stop: ["x"],
      workspace: "w",
      stream: true,
    });
  });
});
