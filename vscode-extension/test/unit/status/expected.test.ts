import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Account } from "../../../src/api/gateway";
import { Expectations, expectedOf } from "../../../src/features/expected";
import { Timeline, type Trace } from "../../../src/features/timeline";

function account(context: Partial<NonNullable<Account["context"]>>): Account {
  const none = { workspace: "web", why: "warm", promptTokens: undefined, cachedTokens: undefined };
  return {
    id: "r",
    status: 200,
    engine: "one",
    choice: "",
    waitedS: 0,
    firstByteS: 0.02,
    totalS: 0.03,
    context: { ...none, predictedCached: undefined, segments: {}, ...context },
  };
}

const STOPPED = { requestId: "r", context: "1900 tokens; warm", characters: 350, sentMs: 1, shownMs: 40 };

function begun(timeline: Timeline, parts: Partial<Trace> = {}): Trace {
  const trace = timeline.begin("completion", "coder", "a.ts:3");
  timeline.update(trace, { ...STOPPED, outcome: "shown", ...parts });
  return trace;
}

describe("what was expected to be cached", () => {
  it("is the server's figure, over its context and an estimate of the request's own tokens", () => {
    const trace = begun(new Timeline());
    expect(expectedOf(trace, account({ predictedCached: 1940 }), [])).toEqual({ cached: 1940, prompt: 2000 });
    expect(expectedOf(trace, account({ predictedCached: 9999 }), [])).toEqual({ cached: 2000, prompt: 2000 });
    expect(expectedOf(trace, account({ promptTokens: 50, cachedTokens: 20 }), [])).toEqual({ cached: 20, prompt: 50 });
    expect(expectedOf(trace, account({}), [])).toBeUndefined();
  });

  it("counts what the request before began with, where all in front of it was cached", () => {
    const trace = begun(new Timeline(), { repeated: 280 });
    expect(expectedOf(trace, account({ predictedCached: 1888 }), [])).toEqual({ cached: 1968, prompt: 2000 });
    expect(expectedOf(trace, account({ predictedCached: 960 }), [])).toEqual({ cached: 960, prompt: 2000 });
    expect(expectedOf(trace, account({ promptTokens: 2000, cachedTokens: 1900 }), [])?.cached).toBe(1900);
  });

  it("learns how long a token is from a request that was counted", () => {
    const timeline = new Timeline();
    begun(timeline, { usage: { prompt: 2075, cached: 0, completion: 1 } }); // 350 characters were 175 tokens
    const trace = begun(timeline);
    expect(expectedOf(trace, account({ predictedCached: 0 }), timeline.all())?.prompt).toBe(2075);
  });
});

describe("asking", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  function asking(answer: () => Promise<Account | undefined> = async () => account({ predictedCached: 1940 })) {
    const timeline = new Timeline();
    const asked: string[] = [];
    const expectations = new Expectations(timeline, (id) => {
      asked.push(id);
      return answer();
    });
    return { timeline, asked, expectations };
  }

  it("is done once, for the last completion, when typing rests", async () => {
    const { timeline, asked } = asking();
    begun(timeline, { requestId: "first" });
    await vi.advanceTimersByTimeAsync(300);
    const last = begun(timeline, { requestId: "second" });
    await vi.advanceTimersByTimeAsync(2000);
    expect(asked).toEqual(["second"]);
    expect(last.expected).toEqual({ cached: 1940, prompt: 2000 });
    timeline.update(last, { outcome: "accepted" });
    await vi.advanceTimersByTimeAsync(2000);
    expect(asked).toHaveLength(1);
  });

  it("is done again when a request ended that the server did not know yet", async () => {
    const answers = [undefined, account({ predictedCached: 1940 })];
    const { timeline, asked } = asking(async () => answers.shift());
    const trace = begun(timeline);
    await vi.advanceTimersByTimeAsync(2000);
    expect([asked.length, trace.expected]).toEqual([1, undefined]);
    timeline.update(trace, { lastTokenMs: 2500 });
    await vi.advanceTimersByTimeAsync(2000);
    expect(trace.expected?.cached).toBe(1940);
  });

  it("is left out where it was counted, where no context was sent, and where the server cannot tell", async () => {
    const { timeline, asked } = asking();
    begun(timeline, { usage: { prompt: 10, cached: 9, completion: 1 } });
    await vi.advanceTimersByTimeAsync(2000);
    begun(timeline, { context: "none; cold" });
    await vi.advanceTimersByTimeAsync(2000);
    expect(asked).toEqual([]);
    const away = asking(() => Promise.reject(new Error("away")));
    const trace = begun(away.timeline);
    await vi.advanceTimersByTimeAsync(2000);
    expect([away.asked.length, trace.expected]).toEqual([1, undefined]);
    away.expectations.dispose();
    begun(away.timeline);
    await vi.advanceTimersByTimeAsync(2000);
    expect(away.asked).toHaveLength(1);
  });
});
