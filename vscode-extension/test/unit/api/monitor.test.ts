import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Fault, type FaultKind } from "../../../src/api/fault";
import { type Facts, type Look, Monitor } from "../../../src/api/monitor";
import { noModel, pickModel } from "../../../src/api/pick";
import type { ConnectionState } from "../../../src/features/states";

const MODEL = { id: "m", maxLength: undefined, role: undefined };
const READY: Look = { models: [MODEL], ready: true, reason: "ready" };

function fault(kind: FaultKind): Fault {
  return new Fault(kind, `it is ${kind}`, "do this");
}

/** A monitor whose looks are told by the test: what is at the front of `answers`, and then its last for ever. */
function rig(answers: (Look | Error | Promise<Look>)[], facts: Partial<Facts> = {}) {
  const states: ConnectionState[] = [];
  const whole: Facts = { hasKey: true, isDefault: false, forbidden: undefined, ...facts };
  const looks: { at: number; signal: AbortSignal }[] = [];
  const look = async (signal: AbortSignal) => {
    looks.push({ at: Date.now(), signal });
    const next = answers.length > 1 ? answers.shift() : answers[0];
    if (next instanceof Error) throw next;
    if (next === undefined) throw new Error("no answer");
    return await next;
  };
  const monitor = new Monitor(
    look,
    () => whole,
    (state) => states.push(state),
    undefined,
    () => Date.now(),
  );
  return { monitor, states, looks, answers };
}

const running: Monitor[] = [];

async function started(answers: (Look | Error | Promise<Look>)[], facts: Partial<Facts> = {}) {
  const one = rig(answers, facts);
  running.push(one.monitor);
  one.monitor.start();
  await vi.advanceTimersByTimeAsync(0);
  return one;
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  for (const monitor of running.splice(0)) monitor.dispose();
  vi.useRealTimers();
});

describe("the state", () => {
  it.each<[FaultKind, Partial<Facts>, ConnectionState]>([
    ["unauthorized", {}, { kind: "unauthorized", why: "it is unauthorized" }],
    ["unauthorized", { hasKey: false }, { kind: "no_key" }],
    ["forbidden", {}, { kind: "unauthorized", why: "it is forbidden do this" }],
    ["refused", {}, { kind: "offline", why: "it is refused", fix: "do this" }],
    ["refused", { hasKey: false }, { kind: "offline", why: "it is refused", fix: "do this" }],
    ["refused", { hasKey: false, isDefault: true }, { kind: "no_key" }],
    ["tls", {}, { kind: "offline", why: "it is tls", fix: "do this" }],
    ["protocol", {}, { kind: "offline", why: "it is protocol", fix: "do this" }],
    ["busy", {}, { kind: "no_model", why: "it is busy" }],
  ])("after %s with %j is %j", async (kind, facts, state) => {
    const { monitor, states } = await started([fault(kind)], facts);
    expect(monitor.state).toEqual(state);
    expect(states).toEqual([state]);
  });

  it("is ready with models, and has a reason without", async () => {
    expect((await started([READY])).monitor.state).toEqual({ kind: "ready", models: [MODEL] });
    expect((await started([{ models: [], ready: true, reason: "ready" }])).monitor.state).toEqual({
      kind: "no_model",
      why: "No model is served.",
    });
    expect((await started([{ models: [MODEL], ready: false, reason: "loading" }])).monitor.state).toEqual({
      kind: "no_model",
      why: "loading",
    });
    expect((await started([new TypeError("a defect")])).monitor.state).toMatchObject({
      kind: "offline",
      why: "a defect",
    });
  });

  it("is not looked for where nothing may be sent", async () => {
    const { monitor, looks } = await started([READY], { forbidden: { why: "no trust", fix: "trust" } });
    expect(monitor.state).toEqual({ kind: "offline", why: "no trust", fix: "trust" });
    monitor.met(fault("refused"));
    expect(monitor.state).toMatchObject({ why: "no trust" });
    expect(looks).toHaveLength(0);
  });
});

describe("the pace", () => {
  it("doubles from one second to thirty while nothing answers, and is thirty when it does", async () => {
    const { looks, answers } = await started([fault("refused")]);
    await vi.advanceTimersByTimeAsync(120_000);
    const gaps = looks.slice(1).map((look, index) => (look.at - (looks[index]?.at ?? 0)) / 1000);
    expect(gaps.slice(0, 7)).toEqual([1, 2, 4, 8, 16, 30, 30]);
    answers[0] = READY;
    await vi.advanceTimersByTimeAsync(30_000);
    const before = looks.length;
    await vi.advanceTimersByTimeAsync(90_000);
    expect(looks.length - before).toBe(3);
  });

  it("tells each state once", async () => {
    const { states } = await started([fault("refused"), fault("refused"), READY, READY]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(states.map((state) => state.kind)).toEqual(["offline", "ready"]);
  });

  it("ends with disposal", async () => {
    const { monitor, looks, states } = await started([READY]);
    monitor.dispose();
    monitor.start();
    monitor.met(fault("refused"));
    await monitor.refresh();
    await vi.advanceTimersByTimeAsync(100_000);
    expect([looks.length, states.length]).toEqual([1, 1]);
  });
});

describe("what is met while working", () => {
  it("counts at once when it is certain, and is looked at soon", async () => {
    const { monitor, states, looks } = await started([READY]);
    await vi.advanceTimersByTimeAsync(10_000);
    monitor.met(fault("refused"));
    expect(monitor.state.kind).toBe("offline");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(states.map((state) => state.kind)).toEqual(["ready", "offline", "ready"]);
    expect(looks).toHaveLength(2);
  });

  it("is only a reason to look when it may be of that request alone", async () => {
    const { monitor, states, looks } = await started([READY]);
    await vi.advanceTimersByTimeAsync(10_000);
    for (let times = 0; times < 20; times++) monitor.met(fault("unreachable"));
    await vi.advanceTimersByTimeAsync(1_500);
    expect(looks).toHaveLength(2);
    expect(states).toHaveLength(1);
  });

  it.each<unknown>([
    fault("superseded"),
    fault("bad_request"),
    fault("conflict"),
    new DOMException("", "AbortError"),
    new Error("a defect"),
  ])("is nothing of the connection: %s", async (error) => {
    const { monitor, looks } = await started([READY]);
    monitor.met(error);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(looks).toHaveLength(1);
  });

  it("a success while it was away is looked at within two seconds, however often it is told", async () => {
    const { monitor, looks } = await started([
      fault("refused"),
      fault("refused"),
      fault("refused"),
      fault("refused"),
      READY,
    ]);
    await vi.advanceTimersByTimeAsync(8_000);
    const before = looks.length;
    for (let times = 0; times < 9; times++) monitor.met(undefined);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(looks.length - before).toBe(1);
    expect(monitor.state.kind).toBe("ready");
    monitor.met(undefined);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(looks.length - before).toBe(1);
  });
});

describe("a look", () => {
  it("is shared by those who ask meanwhile", async () => {
    const { monitor, looks } = await started([READY]);
    const [one, two] = await Promise.all([monitor.refresh(), monitor.refresh()]);
    expect(one).toBe(two);
    expect(looks).toHaveLength(2);
  });

  it("of earlier settings says nothing any more", async () => {
    let late: (look: Look) => void = () => {};
    const slow = new Promise<Look>((resolve) => {
      late = resolve;
    });
    const { monitor, looks, states } = await started([slow, fault("dns")]);
    const first = monitor.refresh();
    expect((await monitor.restart()).kind).toBe("offline");
    expect(looks[0]?.signal.aborted).toBe(true);
    late(READY);
    expect((await first).kind).toBe("offline");
    expect(states.map((state) => state.kind)).toEqual(["offline"]);
  });
});

describe("the models", () => {
  it("are those of the last look, and looked for when there were none a moment ago", async () => {
    const { monitor, looks, answers } = await started([READY]);
    expect(await monitor.models()).toEqual([MODEL]);
    expect(looks).toHaveLength(1);
    answers[0] = fault("refused");
    await monitor.refresh();
    expect(await monitor.models()).toEqual([]);
    expect(looks).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(2_100);
    const before = looks.length;
    answers[0] = READY;
    vi.setSystemTime(Date.now() + 2_500);
    expect(await monitor.models()).toEqual([MODEL]);
    expect(looks.length).toBe(before + 1);
  });
});

describe("the model of a feature", () => {
  const of = (id: string, role?: string) => ({ id, maxLength: undefined, role });

  it("is the one in the settings, listed or not", () => {
    expect(pickModel([of("a"), of("b", "chat")], "completion", "b")).toEqual(of("b", "chat"));
    expect(pickModel([of("a")], "chat", "lora")).toEqual(of("lora"));
  });

  it("is the first of that role, else the first that may write", () => {
    expect(pickModel([of("a"), of("b", "chat")], "chat", "")?.id).toBe("b");
    expect(pickModel([of("e", "embedding"), of("a"), of("b")], "chat", "")?.id).toBe("a");
    expect(pickModel([of("bge-m3"), of("a")], "completion", "")?.id).toBe("a");
    expect(pickModel([of("nomic-embed")], "completion", "")?.id).toBe("nomic-embed");
    expect(pickModel([of("e", "rerank")], "chat", "")).toBeUndefined();
    expect(pickModel([], "chat", "")).toBeUndefined();
  });

  it("is missing for a reason that is told", () => {
    expect(noModel({ kind: "no_key" }).fix).toContain("Set it up");
    expect(noModel({ kind: "unauthorized", why: "A wrong key." })).toMatchObject({ kind: "unauthorized" });
    expect(noModel({ kind: "offline", why: "It is gone.", fix: "Start it." })).toMatchObject({
      message: "It is gone.",
      fix: "Start it.",
    });
    expect(noModel({ kind: "no_model", why: "It is starting." }).message).toBe("It is starting.");
    expect(noModel({ kind: "ready", models: [] }).fix).toContain("aicockpit.chat.model");
  });
});
