// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { FromPanel, PanelRow, ServerView, Summary, ToPanel } from "../../src/features/panelProtocol";
import { startPanel } from "../../src/webview/panel/app";
import { firstState, received, scaleOf, visibleRows } from "../../src/webview/panel/state";

function row(parts: Partial<PanelRow>): PanelRow {
  return {
    id: 1,
    feature: "completion",
    at: new Date(2026, 0, 2, 3, 4, 5).getTime(),
    model: "coder",
    what: "a.ts:3",
    outcome: "shown",
    tone: "good",
    verdict: "shown after 84 ms",
    totalMs: 84,
    feltMs: 84,
    segments: [
      { kind: "here", fromMs: 0, ms: 4 },
      { kind: "engine", fromMs: 4, ms: 60 },
      { kind: "decode", fromMs: 64, ms: 20 },
    ],
    tokens: { prompt: 2000, cached: 1940, computed: 60, written: 12 },
    requestId: "r-1",
    asked: false,
    facts: [["Request", "r-1"]],
    ...parts,
  };
}

const SUMMARY: Summary = {
  ...{ requests: 3, measured: 2, p50Ms: 84, p95Ms: 320, hitShare: 0.97, slow: 1, nothing: 1 },
  outcomes: [
    ["shown", 2],
    ["nothing", 1],
  ],
};
const SERVER: ServerView = {
  address: "http://127.0.0.1:8000",
  state: "connected",
  problem: "",
  models: [{ id: "coder", role: "completion", maxLength: 32768 }],
  engines: [["engine-0", 2]],
  folder: { name: "web", how: "server", sent: undefined, state: "warm", warm: 1, why: "" },
  workspace: {
    ...{ name: "web", files: 1200, bytes: 3_400_000, revision: 7 },
    lanes: [
      {
        ...{
          model: "coder",
          lane: "completion",
          state: "warm",
          reason: "",
          resident: 1,
          packTokens: 16384,
          filesInPack: 80,
        },
        ...{ journalTokens: 200, predictedTtftS: 0.04, lastSaveToWarmS: undefined },
      },
    ],
  },
};
const ROWS: readonly PanelRow[] = [
  row({ id: 1 }),
  row({ id: 2, tone: "slow", verdict: "slow: 1,912 of 2,000 prompt tokens were computed", totalMs: 400, feltMs: 400 }),
  row({
    id: 3,
    feature: "chat",
    tone: "nothing",
    outcome: "nothing",
    verdict: "nothing shown: empty",
    what: "<b>hi</b>",
  }),
];

let sent: FromPanel[] = [];
let saved: unknown;
let root: HTMLElement;
let page: { dispose(): void } | undefined;

function start(state: unknown = undefined): void {
  sent = [];
  saved = state;
  root = document.createElement("div");
  document.body.replaceChildren(root);
  const api = {
    postMessage: (one: FromPanel) => void sent.push(one),
    getState: () => saved,
    setState: (one: unknown) => {
      saved = one;
    },
  };
  page = startPanel(root, api, window);
}

function tell(message: ToPanel): void {
  window.dispatchEvent(new MessageEvent("message", { data: message }));
}

function tellRows(rows: readonly PanelRow[] = ROWS, oldest = 1): void {
  tell({
    type: "rows",
    rows,
    oldest,
    summaries: { all: SUMMARY, completion: { ...SUMMARY, requests: 2 }, chat: { ...SUMMARY, requests: 1 } },
  });
}

function button(name: RegExp): HTMLButtonElement {
  const found = [...root.querySelectorAll("button")].find((one) => name.test(one.textContent));
  if (found === undefined) throw new Error(`no button ${name}`);
  return found;
}

const ids = () => [...root.querySelectorAll<HTMLElement>("li.row")].map((one) => one.dataset.id);

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("IntersectionObserver", undefined);
});
afterEach(() => {
  page?.dispose();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("the panel", () => {
  it("says that it is ready, and what it waits for", () => {
    start();
    expect(sent).toEqual([{ type: "ready" }]);
    expect(root.querySelector(".empty")?.textContent).toBe("Loading");
    tellRows([]);
    expect(root.querySelector(".empty")?.textContent).toContain("No requests yet");
  });

  it("lists the requests, the newest first, as text", () => {
    start();
    tellRows();
    expect(ids()).toEqual(["3", "2", "1"]);
    expect(root.querySelector("b")).toBeNull();
    const first = root.querySelector("li.row");
    expect(first?.textContent).toContain("<b>hi</b>");
    expect(first?.textContent).toContain("nothing shown: empty");
    expect(first?.textContent).toContain("03:04:05");
    expect(root.querySelector(".empty")?.hasAttribute("hidden")).toBe(true);
  });

  it("draws time and tokens to scale, with words for those who do not see them", () => {
    start();
    tellRows();
    const bar = root.querySelector('li[data-id="1"] svg.time');
    expect(bar?.getAttribute("viewBox")).toBe("0 0 400 10");
    expect(bar?.getAttribute("aria-label")).toBe("waiting here 4 ms, queue and prompt 60 ms, writing 20 ms");
    expect(
      [...(bar?.querySelectorAll("rect") ?? [])].map((one) => [one.getAttribute("x"), one.getAttribute("width")]),
    ).toEqual([
      ["0", "4"],
      ["4", "60"],
      ["64", "20"],
    ]);
    const tokens = root.querySelector('li[data-id="1"] svg.tokens');
    expect(tokens?.getAttribute("aria-label")).toBe("1,940 of 2,000 prompt tokens cached, 60 computed");
    tellRows([row({ id: 4, totalMs: 1000, segments: [], tokens: { prompt: 10 } })]);
    expect(root.querySelector('li[data-id="1"] svg.time')?.getAttribute("viewBox")).toBe("0 0 1000 10");
    expect(root.querySelector('li[data-id="4"] svg')).toBeNull();
  });

  it("keeps the elements of rows that did not change, and forgets old ones", () => {
    start();
    tellRows();
    const second = root.querySelector('li[data-id="2"]');
    tellRows([row({ id: 3, verdict: "changed" }), row({ id: 4 })], 2);
    expect(ids()).toEqual(["4", "3", "2"]);
    expect(root.querySelector('li[data-id="2"]')).toBe(second);
    expect(root.querySelector('li[data-id="3"]')?.textContent).toContain("changed");
  });

  it("shows the details of a row, keeps them open and the focus in them", () => {
    start();
    tellRows();
    const head = () => root.querySelector<HTMLButtonElement>('li[data-id="2"] .head');
    head()?.focus();
    head()?.click();
    expect(head()?.getAttribute("aria-expanded")).toBe("true");
    expect(document.activeElement).toBe(head());
    expect(root.querySelector(".details")?.textContent).toContain("r-1");
    expect(root.querySelector(".details .parts")?.textContent).toContain("queue and prompt60 msfrom 4 ms");
    tellRows([row({ id: 2, verdict: "changed" })]);
    expect(root.querySelector('li[data-id="2"] .details')).not.toBeNull();
    button(/^Copy as JSON/).click();
    expect(sent.at(-1)).toEqual({ type: "copy", id: 2 });
    head()?.click();
    expect(root.querySelector(".details")).toBeNull();
  });

  it("filters by feature and by what came of it, and remembers that", () => {
    start();
    tellRows();
    button(/^Only slow 1/).click();
    expect(ids()).toEqual(["2"]);
    button(/^Chat 1/).click();
    expect(root.querySelector(".empty")?.textContent).toContain("None of the last requests");
    button(/^Only nothing/).click();
    expect(ids()).toEqual(["3"]);
    expect(button(/^Chat/).getAttribute("aria-pressed")).toBe("true");
    expect(saved).toEqual({ feature: "chat", tone: "nothing" });
    start(saved);
    tellRows();
    expect(ids()).toEqual(["3"]);
    button(/^Copy all/).click();
    expect(sent.at(-1)).toEqual({ type: "copy" });
  });

  it("keeps the focus on a filter that is pressed", () => {
    start();
    tellRows();
    button(/^Only slow/).focus();
    button(/^Only slow/).click();
    expect(document.activeElement?.textContent).toMatch(/^Only slow/);
  });

  it("sums up", () => {
    start();
    tellRows();
    const words = root.querySelector(".summary")?.textContent ?? "";
    for (const part of ["84 ms", "320 ms", "97 %", "shown 2", "nothing 1"]) expect(words).toContain(part);
  });

  it("asks for the accounts of what is seen, in one message", () => {
    start();
    tellRows([...ROWS, row({ id: 4, asked: true }), row({ id: 5, tone: "running" }), withoutRequest(6)]);
    vi.advanceTimersByTime(200);
    expect(sent.at(-1)).toEqual({ type: "seen", ids: [3, 2, 1] });
    vi.advanceTimersByTime(2000);
    expect(sent.filter((one) => one.type === "seen")).toHaveLength(1);
  });

  it("asks for those that come into view, where the editor tells", () => {
    const looked: ((entries: readonly { target: Element; isIntersecting: boolean }[]) => void)[] = [];
    const watched = new Set<Element>();
    class Observer {
      constructor(look: (typeof looked)[number]) {
        looked.push(look);
      }
      observe(element: Element): void {
        watched.add(element);
      }
      unobserve(element: Element): void {
        watched.delete(element);
      }
      disconnect(): void {
        watched.clear();
      }
    }
    vi.stubGlobal("IntersectionObserver", Observer);
    start();
    tellRows([...ROWS, row({ id: 4, tone: "running", outcome: "running" })]);
    expect(watched.size).toBe(4);
    const target = root.querySelector('li[data-id="2"]');
    if (target === null) throw new Error("no row");
    looked[0]?.([{ target, isIntersecting: true }]);
    vi.advanceTimersByTime(200);
    expect(sent.at(-1)).toEqual({ type: "seen", ids: [2] });
    tellRows([row({ id: 4 })]);
    expect(watched.size).toBe(4);
    page?.dispose();
    expect(watched.size).toBe(0);
  });

  it("does not listen to anything else", () => {
    start();
    for (const data of [null, "x", {}, { type: "rows" }, { type: "other" }])
      window.dispatchEvent(new MessageEvent("message", { data }));
    expect(root.querySelector(".empty")?.textContent).toBe("Loading");
  });
});

describe("the server's part", () => {
  it("shows how warm the folder is", () => {
    start();
    tell({ type: "server", server: SERVER });
    const words = root.querySelector(".server")?.textContent ?? "";
    for (const part of ["connected", "http://127.0.0.1:8000", "coder (completion, 32,768 tokens)", "engine-0 (2 of"]) {
      expect(words).toContain(part);
    }
    for (const part of [
      "web: warm 100 %, read by the server itself",
      "1,200 files, 3.4 MB, revision 7",
      "16,384 tokens",
      "40 ms",
    ]) {
      expect(words).toContain(part);
    }
    expect(root.querySelector("[role=alert]")).toBeNull();
    button(/^Check/).click();
    button(/^Show the log/).click();
    expect(sent.slice(1)).toEqual([
      { type: "run", command: "check" },
      { type: "run", command: "log" },
    ]);
  });

  it("names what is wrong", () => {
    start();
    tell({
      type: "server",
      server: { ...SERVER, state: "offline", problem: "Nobody listens. Start it.", workspace: undefined },
    });
    expect(root.querySelector("[role=alert]")?.textContent).toBe("Nobody listens. Start it.");
    expect(root.querySelector(".lanes")).toBeNull();
  });

  it("offers to keep a folder warm that is not", () => {
    start();
    tell({ type: "server", server: { ...SERVER, folder: undefined, workspace: undefined } });
    button(/^Keep it warm/).click();
    expect(sent.at(-1)).toEqual({ type: "run", command: "workspace.sync" });
  });

  it("shows what is not known as not known", () => {
    start();
    const lane = { ...SERVER.workspace?.lanes[0], resident: undefined, reason: "no engine", state: "off" };
    const workspace = {
      name: "web",
      files: 1,
      bytes: 12,
      revision: 1,
      lanes: [lane as NonNullable<ServerView["workspace"]>["lanes"][number]],
    };
    tell({
      type: "server",
      server: { ...SERVER, models: [{ id: "m", role: undefined, maxLength: undefined }], workspace },
    });
    const cells = [...root.querySelectorAll(".lanes td")].map((one) => one.textContent);
    expect(cells).toEqual([
      "coder",
      "completion",
      "off: no engine",
      "–",
      "16,384 tokens",
      "80",
      "200 tokens",
      "40 ms",
      "–",
    ]);
    expect(root.querySelector(".lanes caption")?.textContent).toContain("12 bytes");
  });
});

describe("the page's state", () => {
  it("takes nothing from a saved state that makes no sense", () => {
    for (const wrong of [null, 5, { feature: "x", tone: 1 }]) {
      expect(firstState(wrong).choice).toEqual({ feature: "all", tone: "all" });
    }
  });

  it("counts failures among those that showed nothing", () => {
    const state = received(firstState({ tone: "nothing" }), {
      type: "rows",
      rows: [row({ tone: "failed" })],
      oldest: 0,
      summaries: {},
    });
    expect(visibleRows(state)).toHaveLength(1);
  });

  it("scales to nine tenths of the rows", () => {
    expect(scaleOf([])).toBe(100);
    expect(scaleOf([row({ totalMs: 20 })])).toBe(100);
    const rows = Array.from({ length: 10 }, (_, at) => row({ totalMs: at === 9 ? 60_000 : 200 }));
    expect(scaleOf(rows)).toBe(200);
  });
});

function withoutRequest(id: number): PanelRow {
  const { requestId: _, ...rest } = row({ id });
  return rest;
}
