import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import type { ChatRequest, Stream } from "../../../src/api/gateway";
import { answer, Joined } from "../../../src/features/chat/answer";
import { Timeline } from "../../../src/features/timeline";
import { fakeGateway, streamOf } from "../fakeGateway";

const REQUEST: ChatRequest = { model: "m", messages: [{ role: "user", content: "hi" }], maxTokens: 10, temperature: 0 };

async function run(stream: (signal: AbortSignal) => Promise<Stream>, abort = new AbortController()) {
  const timeline = new Timeline();
  const trace = timeline.begin("chat", "m", "hi");
  let at = 0;
  const heard: [string, string][] = [];
  const clock = (): number => (at += 10);
  const gateway = fakeGateway({ chat: (_, signal) => stream(signal) });
  const asked = { gateway, request: REQUEST, signal: abort.signal, timeline, trace, began: 0, clock };
  const answered = await answer(asked, (text, reasoning) => {
    heard.push([text, reasoning]);
    if (text === "stop here") abort.abort();
  });
  return { ...answered, heard, trace };
}

describe("an answer", () => {
  it("is heard piece by piece, with its times and figures", async () => {
    const usage = { prompt: 9, cached: 8, completion: 2 };
    const headers = { "x-aicockpit-context": "120 tokens; warm", "x-aicockpit-route": "gpu0" };
    const { ending, heard, trace } = await run(async () => streamOf(["a", "b"], { usage, headers }));
    expect(heard).toEqual([
      ["a", ""],
      ["b", ""],
    ]);
    expect(ending).toMatchObject({ usage, context: "120 tokens; warm" });
    expect(ending.firstTokenMs).toBeGreaterThan(0);
    expect(ending.totalMs).toBeGreaterThan(ending.firstTokenMs ?? 0);
    expect(trace).toMatchObject({ outcome: "shown", requestId: "req-1", route: "gpu0", usage });
    expect(trace.sentMs).toBeLessThan(trace.headersMs ?? 0);
    expect(trace.shownMs).toBeGreaterThanOrEqual(trace.firstTokenMs ?? 0);
    expect(trace.lastTokenMs).toBeGreaterThanOrEqual(trace.firstTokenMs ?? 0);
  });

  it("tells thoughts from text", async () => {
    const { heard } = await run(async () => streamOf(["<think>h", "m</think>", "yes"]));
    expect(heard.map(([text]) => text).join("")).toBe("yes");
    expect(heard.map(([, reasoning]) => reasoning).join("")).toBe("hm");
  });

  it("hears the server's own reasoning", async () => {
    const stream = streamOf([]);
    const pieces = async function* () {
      yield { text: "", index: 0, reasoning: "hm" };
      yield { text: "other", index: 1 };
      yield { text: "yes", index: 0, finish: "stop" };
    };
    const { heard } = await run(async () => ({ ...stream, [Symbol.asyncIterator]: pieces }));
    expect(heard).toEqual([
      ["", "hm"],
      ["yes", ""],
    ]);
  });

  it("that was cut at its length says so", async () => {
    expect((await run(async () => streamOf(["a"], { finish: "length" }))).ending.truncated).toBe(true);
  });

  it("without a word is a fault that says what to do", async () => {
    expect((await run(async () => streamOf([]))).ending.fault?.message).toBe("The model gave no answer.");
    const thought = await run(async () => streamOf(["<think>so long"], { finish: "length" }));
    expect(thought.ending.fault?.fix).toContain("maxTokens");
    expect(thought.trace.outcome).toBe("nothing");
  });

  it("that is stopped keeps what was heard and is no fault", async () => {
    const { ending, heard, error, trace } = await run(async (signal) =>
      streamOf(["one", "stop here", "two"], { signal, delayMs: 1 }),
    );
    expect(heard.map(([text]) => text)).toEqual(["one", "stop here"]);
    expect(ending).toMatchObject({ stopped: true });
    expect(error).toBeUndefined();
    expect(trace.outcome).toBe("stopped");
  });

  it("that fails keeps what was heard, and tells what to do", async () => {
    const fault = new Fault("server", "The engine went away.", "Look at its log.");
    const { ending, heard, error, trace } = await run(async () => streamOf(["one"], { error: fault }));
    expect(heard).toEqual([["one", ""]]);
    expect(ending.fault).toEqual({ message: "The engine went away.", fix: "Look at its log." });
    expect(error).toBe(fault);
    expect(trace).toMatchObject({ outcome: "failed", why: "The engine went away. Look at its log." });
  });

  it("that never begins is told the same way", async () => {
    const { ending, trace } = await run(() => Promise.reject(new Fault("refused", "Nobody listens.", "Start it.")));
    expect(ending.fault).toMatchObject({ command: "check" });
    expect(trace.headersMs).toBeUndefined();
  });
});

describe("joined pieces", () => {
  it("go out at once, then at most every so often, and all of them", async () => {
    const told: string[] = [];
    const joined = new Joined((text) => told.push(text), 20);
    for (const letter of "abcdef") joined.add(letter, "");
    expect(told).toEqual(["a"]);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(told).toEqual(["a", "bcdef"]);
    joined.add("g", "");
    joined.add("h", "x");
    joined.flush();
    joined.flush();
    expect(told.join("")).toBe("abcdefgh");
    await new Promise((resolve) => setTimeout(resolve, 40));
    expect(told.join("")).toBe("abcdefgh");
  });

  it("of a thousand tokens a second become about thirty messages", async () => {
    let count = 0;
    const joined = new Joined(() => count++);
    const end = performance.now() + 300;
    while (performance.now() < end) {
      joined.add("x", "");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    joined.flush();
    expect(count).toBeLessThanOrEqual(12);
  });
});
