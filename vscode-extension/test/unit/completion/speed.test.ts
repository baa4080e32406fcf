/** How long it takes from a change to the request, and to a suggestion that needs none; printed, loosely bounded. */

import { expect, test } from "vitest";
import type { CompletionRequest } from "../../../src/api/gateway";
import { Session } from "../../../src/features/completion/session";
import type { Ask } from "../../../src/features/completion/spot";
import { Timeline } from "../../../src/features/timeline";
import { fakeGateway, streamOf } from "../fakeGateway";

const LINES = 3_000;
const KEYSTROKES = 2_000;
const TYPE_THROUGH_MS = 5;

function report(name: string, times: readonly number[]): number {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  console.log(`${name}: p50 ${at(0.5).toFixed(3)} ms, p95 ${at(0.95).toFixed(3)} ms, of ${times.length}`);
  return at(0.95);
}

/** A document of 3,000 lines whose line in the middle is typed. */
function askFor(own: string): Ask {
  return {
    uri: "file:///long.py",
    what: "long.py:1500",
    language: "python",
    source: {
      lineCount: LINES,
      line: (index) => (index === LINES / 2 ? own : `    value_${index} = compute(value_${index - 1}, ${index})`),
    },
    line: LINES / 2,
    character: own.length,
    explicit: false,
    began: performance.now(),
  };
}

function sessionWith(complete: (request: CompletionRequest) => readonly string[]): Session {
  return new Session({
    gateway: fakeGateway({ complete: async (request) => streamOf(complete(request)) }),
    timeline: new Timeline(),
    clock: () => performance.now(),
    slot: "s",
    met: () => {},
    options: () => ({ model: "m", maxTokens: 96, multiline: "auto", candidates: 1 }),
  });
}

test("change to request", async () => {
  let called = 0;
  const session = sessionWith(() => {
    called = performance.now();
    return [""];
  });
  const times: number[] = [];
  let own = "    ";
  for (let typed = 0; typed < KEYSTROKES; typed++) {
    own = typed % 60 === 0 ? "    " : own + String.fromCharCode(97 + ((typed * 7) % 26));
    // Twice over the same keys would be answered from memory.
    const ask = askFor(`${own}${typed % 60 === 0 ? typed : ""}`);
    own = ask.source.line(ask.line);
    const began = performance.now();
    const asked = session.suggest(ask, new AbortController().signal);
    times.push(called - began);
    await asked;
  }
  expect(
    report(
      "change to request",
      times.filter((time) => time > 0),
    ),
  ).toBeLessThan(TYPE_THROUGH_MS * 2);
  expect(times.filter((time) => time > 0).length).toBeGreaterThan(KEYSTROKES * 0.95);
});

test("type-through", async () => {
  const answer = `result = ${"compute(value, other) + ".repeat(5)}0`;
  let requests = 0;
  const session = sessionWith(() => {
    requests += 1;
    return [answer];
  });
  const times: number[] = [];
  await session.suggest(askFor("    "), new AbortController().signal);
  for (let typed = 0; typed < KEYSTROKES; typed++) {
    const ask = askFor(`    ${answer.slice(0, 1 + (typed % (answer.length - 2)))}`);
    const began = performance.now();
    const shown = await session.suggest(ask, new AbortController().signal);
    times.push(performance.now() - began);
    expect(shown).toHaveLength(1);
  }
  expect(requests).toBe(1);
  expect(report("type-through", times)).toBeLessThanOrEqual(TYPE_THROUGH_MS);
});
