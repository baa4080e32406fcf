import { describe, expect, it } from "vitest";
import type { Account } from "../../../src/api/gateway";
import { feltMs, quantile, rowOf, segmentsOf, summariesOf, tokensOf } from "../../../src/features/panel";
import { contextSentence, decodeFromPanel } from "../../../src/features/panelProtocol";
import { serverView } from "../../../src/features/panelServer";
import type { Trace } from "../../../src/features/timeline";

function trace(parts: Partial<Trace>): Trace {
  return { id: 1, feature: "completion", at: 0, model: "coder", what: "a.ts:3", outcome: "shown", why: "", ...parts };
}

function account(parts: Partial<Account>): Account {
  return {
    id: "r-1",
    status: 200,
    engine: "engine-0",
    choice: "most of it is cached there",
    waitedS: 0.02,
    firstByteS: 0.08,
    totalS: 0.2,
    context: undefined,
    ...parts,
  };
}

const TIMES = { sentMs: 10, headersMs: 90, firstTokenMs: 110, lastTokenMs: 160, shownMs: 165 };
const COLD = { prompt: 2000, cached: 88, completion: 20 };
const WARM = { prompt: 2000, cached: 1940, completion: 20 };

type VerdictCase = readonly [verdict: string, tone: string, parts: Partial<Trace>, account?: Account];
const VERDICTS: readonly VerdictCase[] = [
  ["shown after 165 ms, 97 % of the prompt was cached", "good", { ...TIMES, usage: WARM }],
  ["accepted after 165 ms", "good", { ...TIMES, outcome: "accepted" }],
  ["typed through: no request was needed", "good", { outcome: "typed through", shownMs: 2 }],
  ["superseded by a newer keystroke after 23 ms", "quiet", { outcome: "superseded", sentMs: 1, headersMs: 23 }],
  ["superseded by a newer keystroke", "quiet", { outcome: "superseded" }],
  ["unused after 61 ms: the editor left", "quiet", { outcome: "unused", lastTokenMs: 61, why: "the editor left" }],
  ["stopped after 10 ms: You stopped it.", "quiet", { outcome: "stopped", sentMs: 10, why: "You stopped it." }],
  [
    "nothing shown: the answer repeated the next line (filter duplicate)",
    "nothing",
    { ...TIMES, outcome: "nothing", why: "the answer repeated the next line (filter duplicate)" },
  ],
  ["nothing shown: the answer was empty", "nothing", { outcome: "nothing" }],
  [
    "failed: Nobody listens. Start the server.",
    "failed",
    { outcome: "failed", why: "Nobody listens. Start the server." },
  ],
  ["failed: the reason is not known", "failed", { outcome: "failed" }],
  ["being prepared", "running", { outcome: "running" }],
  ["waiting for the first word", "running", { outcome: "running", sentMs: 1 }],
  ["the answer is coming", "running", { outcome: "running", sentMs: 1, firstTokenMs: 2 }],
  [
    "slow: 1,912 of 2,000 prompt tokens were computed, since there was no warm context (warming 40 %)",
    "slow",
    { sentMs: 5, firstTokenMs: 800, lastTokenMs: 850, shownMs: 852, usage: COLD, context: "none; warming 40 %" },
  ],
  [
    "slow: 1,912 of 2,000 prompt tokens were computed, since only 64 tokens of context were warm",
    "slow",
    { sentMs: 5, firstTokenMs: 800, shownMs: 852, usage: COLD, context: "64 tokens; warm" },
  ],
  [
    "slow: 1,912 of 2,000 prompt tokens were computed, and the server did not say why",
    "slow",
    { sentMs: 5, firstTokenMs: 800, shownMs: 852, usage: COLD },
  ],
  [
    "slow: 795 ms of 852 ms passed until the first word although 1,940 of 2,000 prompt tokens were cached: the engine was busy with other requests, or is slow",
    "slow",
    { sentMs: 5, firstTokenMs: 800, shownMs: 852, usage: WARM },
  ],
  [
    "slow: 795 ms of 852 ms passed until the first word; how much of the prompt was cached is not known",
    "slow",
    { sentMs: 5, firstTokenMs: 800, shownMs: 852 },
  ],
  [
    "slow: 400 ms of 500 ms passed here, before the request left",
    "slow",
    { sentMs: 400, firstTokenMs: 450, shownMs: 500 },
  ],
  [
    "slow: 600 ms of 800 ms were spent waiting at the gateway (two engines are busy)",
    "slow",
    { sentMs: 0, firstTokenMs: 780, shownMs: 800 },
    account({ waitedS: 0.6, firstByteS: 0.75, choice: "two engines are busy" }),
  ],
  [
    "slow: 700 ms of 800 ms passed on the way to the server and back",
    "slow",
    { sentMs: 0, firstTokenMs: 780, shownMs: 800 },
    account({ waitedS: 0, firstByteS: 0.08 }),
  ],
  [
    "slow: 900 ms of 1.0 s went into writing 46 tokens (50 a second)",
    "slow",
    { sentMs: 0, firstTokenMs: 80, lastTokenMs: 980, shownMs: 1000, usage: { prompt: 10, cached: 9, completion: 46 } },
  ],
  [
    "slow: 700 ms of 900 ms passed between the last word and the screen",
    "slow",
    { sentMs: 0, firstTokenMs: 80, lastTokenMs: 200, shownMs: 900 },
  ],
  ["shown after 900 ms", "good", { feature: "chat", sentMs: 1, firstTokenMs: 900, lastTokenMs: 9000 }],
  [
    "slow: 1.9 s of 2.0 s passed until the first word; how much of the prompt was cached is not known",
    "slow",
    { feature: "chat", sentMs: 100, firstTokenMs: 2000, lastTokenMs: 9000 },
  ],
];

describe("the verdict on a request", () => {
  it.each(VERDICTS.map((one) => [one[0], one] as const))("%s", (_, [verdict, tone, parts, told]) => {
    expect(rowOf(trace(parts), told)).toMatchObject({ verdict, tone });
  });

  it("says so when nothing more was measured", () => {
    expect(rowOf(trace({ lastTokenMs: 900 }), undefined).verdict).toBe(
      "slow: shown after 900 ms; nothing more was measured",
    );
  });
});

describe("the time line", () => {
  it("is one part after the other, up to the end", () => {
    const parts = segmentsOf(trace(TIMES), account({}));
    expect(parts).toEqual([
      { kind: "here", fromMs: 0, ms: 10 },
      { kind: "network", fromMs: 10, ms: 20 },
      { kind: "gateway", fromMs: 30, ms: 20 },
      { kind: "engine", fromMs: 50, ms: 60 },
      { kind: "decode", fromMs: 110, ms: 50 },
      { kind: "display", fromMs: 160, ms: 5 },
    ]);
  });

  it("holds together whatever was measured", () => {
    const times = [undefined, 0, 5, 40, 40.5, 1000];
    const some = <T>(list: readonly T[], at: number) => list[at % list.length];
    for (let round = 0; round < 6 ** 5; round++) {
      const one: Partial<Trace> = {};
      for (const [place, name] of (
        ["sentMs", "headersMs", "firstTokenMs", "lastTokenMs", "shownMs"] as const
      ).entries()) {
        const time = some(times, Math.floor(round / 6 ** place));
        if (time !== undefined) one[name] = time;
      }
      const told = round % 3 === 0 ? undefined : account({ waitedS: round % 2 ? 5 : undefined, firstByteS: round % 5 });
      const parts = segmentsOf(trace(one), told);
      let at = 0;
      for (const part of parts) {
        expect(part.ms).toBeGreaterThan(0);
        expect(part.fromMs).toBeCloseTo(at, 6);
        at = part.fromMs + part.ms;
      }
      expect(at).toBeLessThanOrEqual(1000);
    }
  });

  it("of a completion that was typed through is only its display", () => {
    expect(segmentsOf(trace({ shownMs: 2 }), undefined)).toEqual([{ kind: "display", fromMs: 0, ms: 2 }]);
  });

  it("of a request that got no word ends where it was left", () => {
    expect(segmentsOf(trace({ sentMs: 5, headersMs: 30 }), undefined).at(-1)).toEqual({
      kind: "engine",
      fromMs: 5,
      ms: 25,
    });
  });
});

describe("tokens", () => {
  it("come from the engine, else from the server's account", () => {
    const context = {
      workspace: "web",
      why: "warm",
      promptTokens: 100,
      predictedCached: 90,
      cachedTokens: 96,
      segments: {},
    };
    expect(tokensOf(trace({ usage: WARM }), account({ context }))).toEqual({
      prompt: 2000,
      cached: 1940,
      computed: 60,
      written: 20,
    });
    expect(tokensOf(trace({}), account({ context }))).toEqual({ prompt: 100, cached: 96, computed: 4 });
    expect(tokensOf(trace({ usage: { prompt: 10, cached: undefined, completion: 1 } }), undefined)).toEqual({
      prompt: 10,
      written: 1,
    });
    expect(tokensOf(trace({}), account({}))).toBeUndefined();
  });
});

describe("the details", () => {
  it("have all that an operator may ask for", () => {
    const context = {
      ...{ workspace: "web", why: "warm", promptTokens: 2000, predictedCached: 1936, cachedTokens: 1940 },
      segments: { pack: 1500, journal: 0, neighbourhood: 200 },
    };
    const row = rowOf(
      trace({ ...TIMES, usage: WARM, requestId: "r-1", route: "cached", context: "1,700 tokens; warm" }),
      account({ context }),
    );
    expect(Object.fromEntries(row.facts)).toEqual({
      Request: "r-1",
      Model: "coder",
      Engine: "engine-0",
      "Chosen because": "most of it is cached there",
      Route: "cached",
      Context: "1,700 tokens; warm",
      Workspace: "web",
      "In front of the request": "pack 1,500, neighbourhood 200",
      "Prompt tokens": "2,000: 1,940 cached, 60 computed",
      "Expected to be cached": "1,936 tokens",
      Written: "20 tokens (380 a second)",
      "Server's own time": "waited 20 ms, first byte after 80 ms, 200 ms in all",
      Status: "200",
    });
    expect(row.asked).toBe(true);
  });

  it("say when the server knows nothing any more, and what is not known", () => {
    const row = rowOf(trace({ requestId: "r-1", usage: { prompt: 10, cached: undefined, completion: 1 } }), null);
    expect(Object.fromEntries(row.facts).Server).toContain("knows nothing of it any more");
    expect(Object.fromEntries(row.facts)["Prompt tokens"]).toBe("10; how many were cached is not known");
    expect(row.asked).toBe(true);
    expect(rowOf(trace({ requestId: "r-1" }), undefined).asked).toBe(false);
    expect(rowOf(trace({}), undefined).asked).toBe(true);
  });
});

describe("the summary", () => {
  const rows = [
    trace({ id: 1, ...TIMES, usage: WARM }),
    trace({ id: 2, ...TIMES, shownMs: 365, usage: COLD }),
    trace({ id: 3, outcome: "typed through", shownMs: 1 }),
    trace({ id: 4, outcome: "superseded" }),
    trace({ id: 5, outcome: "nothing" }),
    trace({ id: 6, feature: "chat", sentMs: 1, firstTokenMs: 700 }),
  ].map((one) => rowOf(one, undefined));

  it("counts what was asked of the server, by feature", () => {
    const { all, completion, chat, edit } = summariesOf(rows);
    expect(completion).toMatchObject({ requests: 5, measured: 2, p50Ms: 165, p95Ms: 365, slow: 1, nothing: 1 });
    expect(completion?.hitShare).toBeCloseTo((1940 + 88) / 4000);
    expect(completion?.outcomes[0]).toEqual(["shown", 2]);
    expect(chat).toMatchObject({ requests: 1, p50Ms: 700 });
    expect(chat?.hitShare).toBeUndefined();
    expect(all?.requests).toBe(6);
    expect(edit).toBeUndefined();
  });

  it("of nothing has no figures", () => {
    expect(summariesOf([]).all).toEqual({ requests: 0, measured: 0, slow: 0, nothing: 0, outcomes: [] });
    expect(quantile([], 0.5)).toBeUndefined();
  });

  it("takes the nearest rank", () => {
    const values = Array.from({ length: 100 }, (_, at) => at + 1);
    expect([0, 0.5, 0.95, 1].map((share) => quantile(values, share))).toEqual([1, 50, 95, 100]);
  });

  it("measures what the user waited for", () => {
    expect(feltMs(trace({ lastTokenMs: 5 }))).toBe(5);
    expect(feltMs(trace({ feature: "edit", firstTokenMs: 3, lastTokenMs: 5 }))).toBe(3);
  });
});

describe("what the page says", () => {
  it("is read with care", () => {
    expect(decodeFromPanel({ type: "ready" })).toEqual({ type: "ready" });
    expect(decodeFromPanel({ type: "seen", ids: [1, "2", 3.5, 4] })).toEqual({ type: "seen", ids: [1, 4] });
    expect(decodeFromPanel({ type: "copy", id: 3 })).toEqual({ type: "copy", id: 3 });
    expect(decodeFromPanel({ type: "copy" })).toEqual({ type: "copy" });
    expect(decodeFromPanel({ type: "run", command: "check" })).toEqual({ type: "run", command: "check" });
    for (const wrong of [null, "x", {}, { type: "seen" }, { type: "run", command: "rm" }, { type: "x" }]) {
      expect(decodeFromPanel(wrong)).toBeUndefined();
    }
  });
});

describe("contextSentence", () => {
  it("follows the header", () => {
    expect(contextSentence("none")).toBe("since there was no warm context");
    expect(contextSentence("512 tokens; warm; the newest saves are being warmed")).toBe(
      "since only 512 tokens of context were warm (warm; the newest saves are being warmed)",
    );
    expect(contextSentence("odd")).toBe("since the context was: odd");
  });
});

describe("serverView", () => {
  const base = {
    address: "http://a:1",
    connection: { kind: "ready", models: [] } as const,
    models: [{ id: "coder", maxLength: 8192, role: undefined }],
    engines: [["engine-0", 3]] as const,
    folder: undefined,
    workspace: undefined,
    workspaceProblem: "",
  };

  it("names what is wrong, the connection first", () => {
    expect(serverView(base)).toMatchObject({ state: "connected", problem: "", engines: [["engine-0", 3]] });
    expect(serverView({ ...base, connection: { kind: "no_key" }, workspaceProblem: "x" }).problem).toContain("No key");
    expect(serverView({ ...base, connection: { kind: "offline", why: "Away.", fix: "Start it." } })).toMatchObject({
      state: "offline",
      problem: "Away. Start it.",
    });
    expect(serverView({ ...base, connection: { kind: "unauthorized", why: "Wrong key." } }).problem).toBe("Wrong key.");
    expect(serverView({ ...base, workspaceProblem: "No answer." }).problem).toBe("No answer.");
    const folder = {
      name: "web",
      how: "pushing",
      sent: undefined,
      state: "failed",
      warm: undefined,
      why: "Too large.",
    } as const;
    expect(serverView({ ...base, folder }).problem).toBe("Too large.");
  });

  it("passes the workspace on", () => {
    const workspace = { name: "web", revision: 3, files: 10, bytes: 2048, lanes: [] };
    expect(serverView({ ...base, workspace }).workspace).toEqual(workspace);
  });
});
