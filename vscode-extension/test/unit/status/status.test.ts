import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { menuRows } from "../../../src/features/menu";
import type { FolderStatus } from "../../../src/features/states";
import {
  lastCompletion,
  runningTrace,
  type Settled,
  type StatusInput,
  settle,
  statusOf,
} from "../../../src/features/status";
import type { Trace } from "../../../src/features/timeline";

const NOW = 1_800_000_000_000;
const READY = { kind: "ready", models: [{ id: "coder", maxLength: undefined, role: "completion" }] } as const;

function trace(parts: Partial<Trace>): Trace {
  return {
    id: 1,
    feature: "completion",
    at: NOW - 1000,
    model: "coder",
    what: "a.ts:3",
    outcome: "shown",
    why: "",
    ...parts,
  };
}

function folder(parts: Partial<FolderStatus>): FolderStatus {
  return { name: "web", how: "server", sent: undefined, state: "warm", warm: 1, why: "", ...parts };
}

function input(parts: Partial<StatusInput>): StatusInput {
  return {
    address: "http://127.0.0.1:8000",
    connection: READY,
    folder: undefined,
    last: undefined,
    running: undefined,
    snoozedUntil: undefined,
    trigger: "automatic",
    language: { id: "python", on: true },
    now: NOW,
    ...parts,
  };
}

const LAST = trace({ shownMs: 84, usage: { prompt: 2000, cached: 1940, completion: 12 } });

const STATES: readonly (readonly [text: string, icon: string, severity: string, parts: Partial<StatusInput>])[] = [
  ["connecting", "loading~spin", "none", { connection: { kind: "unknown" } }],
  ["set up", "key", "warning", { connection: { kind: "no_key" } }],
  ["unauthorised", "lock", "error", { connection: { kind: "unauthorized", why: "The key is wrong." } }],
  [
    "offline",
    "debug-disconnect",
    "error",
    { connection: { kind: "offline", why: "Nobody listens.", fix: "Start it." } },
  ],
  ["no model", "warning", "warning", { connection: { kind: "no_model", why: "None is served." } }],
  ["ready", "check", "none", {}],
  ["ready 84 ms 97 %", "check", "none", { last: LAST }],
  ["ready", "check", "none", { folder: folder({ state: "off" }) }],
  ["warm", "flame", "none", { folder: folder({}) }],
  ["warm 84 ms 97 %", "flame", "none", { folder: folder({}), last: LAST }],
  ["warming 63 %", "sync~spin", "none", { folder: folder({ state: "warming", warm: 0.63 }), last: LAST }],
  ["warming", "sync~spin", "none", { folder: folder({ state: "warming", warm: undefined }) }],
  ["sending 12 %", "sync~spin", "none", { folder: folder({ state: "syncing", sent: 0.12 }) }],
  ["cold 84 ms 97 %", "circle-outline", "none", { folder: folder({ state: "cold" }), last: LAST }],
  ["sync failed", "warning", "warning", { folder: folder({ state: "failed", why: "Too large." }) }],
  ["snoozed 12 min", "bell-slash", "none", { snoozedUntil: NOW + 11.2 * 60_000, folder: folder({}) }],
  ["snoozed", "bell-slash", "none", { snoozedUntil: Number.POSITIVE_INFINITY }],
  ["ready", "check", "none", { snoozedUntil: NOW - 1 }],
  ["off for markdown", "circle-slash", "none", { language: { id: "markdown", on: false } }],
  ["off", "circle-slash", "none", { trigger: "off" }],
  ["ready", "check", "none", { trigger: "manual" }],
  [
    "offline",
    "debug-disconnect",
    "error",
    { connection: { kind: "offline", why: "a", fix: "b" }, snoozedUntil: NOW + 60_000 },
  ],
  ["ready", "loading~spin", "none", { running: trace({ feature: "chat", outcome: "running", at: NOW }) }],
  ["ready", "check", "none", { running: trace({ outcome: "running", at: NOW - 100 }) }],
  ["ready", "loading~spin", "none", { running: trace({ outcome: "running", at: NOW - 500 }) }],
  ["ready", "check", "none", { running: trace({ outcome: "running", at: NOW - 300_000 }) }],
];

describe("statusOf", () => {
  it.each(STATES)("says %s with %s", (text, icon, severity, parts) => {
    expect(statusOf(input(parts))).toMatchObject({ text: `AiCockpit: ${text}`, icon, severity });
  });

  it("tells the rest in the tooltip", () => {
    const view = statusOf(input({ folder: folder({ why: "epoch 3" }), last: trace({ ...LAST, why: "from `x`" }) }));
    expect(view.tooltip).toEqual([
      "**AiCockpit: warm 84 ms 97 %**",
      "epoch 3",
      "Server: `http://127.0.0.1:8000`",
      "Models: `coder` (completion)",
      "Folder: `web`, warm (100 %)",
      "Last completion: shown (84 ms 97 %), 1,940 of 2,000 prompt tokens were cached: from \\`x\\`",
    ]);
  });

  it("says of a share that nobody counted that it was expected", () => {
    const last = trace({ shownMs: 41, expected: { cached: 1940, prompt: 2000 } });
    const view = statusOf(input({ folder: folder({}), last }));
    expect(view.text).toBe("AiCockpit: warm 41 ms ≈97 %");
    expect(view.tooltip.at(-1)).toBe(
      "Last completion: shown (41 ms ≈97 %), the server expected 1,940 of about 2,000 prompt tokens to be cached",
    );
    const counted = { ...last, usage: { prompt: 2000, cached: 200, completion: 1 } };
    expect(statusOf(input({ last: counted })).text).toBe("AiCockpit: ready 41 ms 10 %");
  });

  it("names the remedy of a fault", () => {
    const { tooltip } = statusOf(
      input({ connection: { kind: "offline", why: "Nobody listens.", fix: "Start [it](x)." } }),
    );
    expect(tooltip).toContain("Nobody listens.");
    expect(tooltip).toContain("Start \\[it\\]\\(x\\).");
  });

  it("names a few models of many", () => {
    const models = Array.from({ length: 9 }, (_, at) => ({ id: `m${at}`, maxLength: undefined, role: undefined }));
    expect(statusOf(input({ connection: { kind: "ready", models } })).tooltip.join()).toContain("`m4` and 4 more");
  });

  it("says when it will read otherwise", () => {
    expect(statusOf(input({ snoozedUntil: NOW + 150_000 })).again).toBe(30_000);
    expect(statusOf(input({ snoozedUntil: NOW + 120_000 })).again).toBe(60_000);
    expect(statusOf(input({ running: trace({ at: NOW - 100 }) })).again).toBe(300);
    expect(statusOf(input({})).again).toBeUndefined();
  });
});

describe("settle", () => {
  const view = (text: string) => ({ ...statusOf(input({})), text });

  it("shows the first at once", () => {
    expect(settle(undefined, view("a"), 0)).toEqual({ shown: { view: view("a"), since: 0 }, again: undefined });
  });

  it("keeps each for 300 ms, and comes to the last", () => {
    let shown: Settled | undefined;
    const seen: string[] = [];
    let wake = Number.POSITIVE_INFINITY;
    for (let now = 0; now <= 2000; now += 10) {
      // Changes every 10 ms until 1 s, then stays.
      const next = view(now < 1000 ? `s${now}` : "end");
      if (now > 1000 && now < wake) continue;
      const settled = settle(shown, next, now);
      if (settled.shown.view.text !== shown?.view.text) seen.push(`${now} ${settled.shown.view.text}`);
      shown = settled.shown;
      wake = settled.again === undefined ? Number.POSITIVE_INFINITY : now + settled.again;
    }
    expect(seen).toEqual(["0 s0", "300 s300", "600 s600", "900 s900", "1200 end"]);
  });

  it("takes a new tooltip at once, since nothing flickers by it", () => {
    const first = settle(undefined, view("a"), 0).shown;
    const next = { ...view("a"), tooltip: ["new"] };
    expect(settle(first, next, 10)).toEqual({ shown: { view: next, since: 0 }, again: undefined });
  });

  it("is not stopped by a clock that goes back", () => {
    const first = settle(undefined, view("a"), 1000).shown;
    expect(settle(first, view("b"), 0).shown.view.text).toBe("b");
  });
});

describe("traces for the status", () => {
  it("takes the newest completion that was shown, whether its tokens were counted or not", () => {
    const stopped = trace({ id: 3, shownMs: 41, outcome: "accepted" });
    const counted = trace({ id: 2, shownMs: 80, usage: { prompt: 10, cached: 9, completion: 1 } });
    const running = trace({ id: 4, outcome: "running" });
    expect(lastCompletion([running, stopped, counted])?.id).toBe(3);
    expect(lastCompletion([running, trace({ id: 3, outcome: "superseded" }), counted])?.id).toBe(2);
    expect(lastCompletion([running, trace({ id: 1, outcome: "superseded" })])?.id).toBe(1);
    expect(lastCompletion([running])).toBeUndefined();
  });

  it("finds the oldest that runs, without the lost ones", () => {
    const traces = [3, 2, 1].map((id) => trace({ id, outcome: "running", at: id === 1 ? NOW - 999_999 : NOW }));
    expect(runningTrace(traces, NOW)?.id).toBe(2);
  });
});

it("claims no warmth of a folder while the server is not reached", () => {
  const lines = (parts: Partial<StatusInput>) => statusOf(input({ folder: folder({}), ...parts })).tooltip.join("\n");
  expect(lines({})).toMatch(/Folder: `[^`]+`, warm/);
  expect(lines({ connection: { kind: "offline", why: "", fix: "" } })).toMatch(/Folder: `[^`]+`$/m);
});

describe("menuRows", () => {
  const commands = (parts: Partial<StatusInput>) => menuRows(input(parts)).map((row) => row.command);

  it("offers everything once", () => {
    const rows = menuRows(input({}));
    const given = rows
      .slice(3)
      .map((row) => row.command)
      .filter((one) => one !== undefined);
    expect(new Set(given).size).toBe(given.length);
    for (const name of ["setUp", "check", "completion.snooze", "completion.toggleLanguage", "panel", "chat.open"]) {
      expect(given).toContain(`aicockpit.${name}`);
    }
    for (const name of ["workspace.sync", "docs.manage", "log", "terminal.describe"])
      expect(given).toContain(`aicockpit.${name}`);
    expect(rows[1]).toMatchObject({ label: "AiCockpit: ready", icon: "check" });
  });

  it("puts the remedy on top", () => {
    const first = (parts: Partial<StatusInput>) => {
      const rows = menuRows(input(parts));
      return rows[rows.findIndex((row) => row.label === "To do") + 1]?.command;
    };
    expect(first({ connection: { kind: "no_key" } })).toBe("aicockpit.setUp");
    expect(first({ connection: { kind: "unauthorized", why: "" } })).toBe("aicockpit.setKey");
    expect(first({ connection: { kind: "offline", why: "", fix: "" } })).toBe("aicockpit.check");
    expect(first({ connection: { kind: "no_model", why: "" } })).toBe("aicockpit.check");
    expect(first({ snoozedUntil: NOW + 1 })).toBe("aicockpit.completion.wake");
    expect(first({ language: { id: "a", on: false } })).toBe("aicockpit.completion.toggleLanguage");
    expect(first({ folder: folder({ state: "failed" }) })).toBe("aicockpit.workspace.sync");
    expect(first({})).toBe(menuRows(input({}))[0]?.command);
  });

  it("follows the folder, the snooze and the language", () => {
    expect(commands({ folder: folder({}) })).toContain("aicockpit.workspace.stop");
    expect(commands({ folder: folder({ state: "off" }) })).toContain("aicockpit.workspace.sync");
    expect(commands({ snoozedUntil: NOW + 1 })).not.toContain("aicockpit.completion.snooze");
    expect(commands({ language: undefined })).not.toContain("aicockpit.completion.toggleLanguage");
  });

  it("runs only commands that there are", () => {
    const manifest = JSON.parse(readFileSync(join(import.meta.dirname, "../../../package.json"), "utf8"));
    const known = new Set<string>(manifest.contributes.commands.map((one: { command: string }) => one.command));
    known.add("aicockpit.log"); // registered by ui/menu.ts, for the menu only
    const inputs = [{}, { folder: folder({}) }, { snoozedUntil: NOW + 1 }, { connection: { kind: "no_key" } as const }];
    for (const parts of inputs) for (const one of commands(parts)) if (one !== undefined) expect(known).toContain(one);
  });

  it("shows no Markdown", () => {
    const rows = menuRows(input({ connection: { kind: "offline", why: "No *way* to [x].", fix: "" } }));
    expect(rows.map((row) => row.label)).toContain("No *way* to [x].");
  });
});
