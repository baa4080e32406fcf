import { expect, test } from "vitest";
import { Fault } from "../../../src/api/fault";
import type { DocSource } from "../../../src/api/gateway";
import { follow } from "../../../src/features/docs/follow";
import * as sources from "../../../src/features/docs/sources";
import { fakeGateway } from "../fakeGateway";

function source(change: Partial<DocSource> = {}): DocSource {
  return {
    id: "1",
    name: "Guide",
    from: "https://docs.example.org/guide/",
    state: "ready",
    pages: 2,
    chunks: 9,
    problems: [],
    error: undefined,
    ...change,
  };
}

test.each([
  ["docs.example.org/guide/", "https://docs.example.org/guide/", "example.org/guide"],
  ["https://www.example.org/docs/en/latest/", "https://www.example.org/docs/en/latest/", "example.org"],
  ["http://localhost:8080/x", "http://localhost:8080/x", "localhost/x"],
  [" https://example.org ", "https://example.org/", "example.org"],
])("%s is an address", (typed, url, name) => {
  expect(sources.askedFor(typed)).toEqual({ kind: "url", url, name });
});

test.each([
  ["", "Type the address"],
  ["two words", "no spaces"],
  ["https://", "not an address"],
  ["ftp://example.org/", "Only http and https"],
  ["file:///etc/passwd", "Only http and https"],
  ["https://me:secret@example.org/", "user name"],
  ["readme", "not a whole host name"],
])("%s is none, and why is told", (typed, why) => {
  const asked = sources.askedFor(typed);
  expect(asked.kind).toBe("wrong");
  expect(asked.kind === "wrong" && asked.why).toContain(why);
  expect(JSON.stringify(asked)).not.toContain("secret");
});

test("a name is free and has a length", () => {
  const known = [source(), source({ name: "guide 2" })];
  expect(sources.freeName("Guide", known)).toBe("Guide 3");
  expect(sources.freeName("  ", [])).toBe("Documentation");
  expect(sources.freeName("x".repeat(300), []).length).toBeLessThanOrEqual(100);
  expect(sources.wrongName("GUIDE", known)).toContain("already");
  expect(sources.wrongName(" ", known)).toBe("Type a name.");
  expect(sources.wrongName("x".repeat(101), known)).toContain("100");
  expect(sources.wrongName("Other", known)).toBeUndefined();
});

test("how far it is is told while it is read", () => {
  const progress = { known: 130, current: "https://docs.example.org/guide/intro.html" };
  expect(sources.progressText(source({ state: "queued" }))).toBe("waiting for its turn");
  expect(sources.progressText(source({ state: "fetching", pages: 42, progress }))).toBe(
    "42 of 130 known pages, intro.html",
  );
  expect(sources.progressText(source({ state: "fetching", pages: 1 }))).toBe("1 page");
  expect(sources.progressText(source({ state: "indexing", pages: 3 }))).toBe("indexing 3 pages");
  expect(sources.share(source({ pages: 65, progress }))).toBe(50);
  expect(sources.share(source({ pages: 200, progress }))).toBe(100);
  expect(sources.share(source())).toBeUndefined();
});

test("what became of it is one sentence", () => {
  expect(sources.endText(source())).toEqual({
    text: "“Guide” is ready: 2 pages. Type @docs in a chat to use it.",
    kind: "good",
  });
  expect(sources.endText(source({ problems: ["a", "b"] })).text).toContain("2 things were left out.");
  expect(sources.endText(source({ problems: ["a"] }))).toMatchObject({ kind: "warning" });
  expect(sources.endText(source({ state: "failed", error: "no such host" }))).toEqual({
    text: "“Guide” could not be read: no such host",
    kind: "error",
  });
  expect(sources.endText(source({ state: "failed" })).text).toContain("no reason");
  expect(sources.endText(source({ state: "cancelled", pages: 1 })).text).toBe("“Guide” was stopped; 1 page kept.");
  expect(sources.endText(source({ error: "the refresh failed" }))).toMatchObject({ kind: "warning" });
});

test("the list tells states apart", () => {
  expect(sources.detail(source({ problems: ["x"] }))).toBe("2 pages, 9 sections, 1 problem");
  expect(sources.detail(source({ state: "cancelled" }))).toBe("stopped, 2 pages, 9 sections");
  expect(sources.detail(source({ state: "failed", error: "gone" }))).toBe("failed: gone");
  expect(sources.detail(source({ state: "queued" }))).toBe("waiting for its turn");
  expect(
    (["fetching", "failed", "cancelled", "ready"] as const).map((state) => sources.icon(source({ state }))),
  ).toEqual(["sync~spin", "error", "warning", "book"]);
  expect(sources.isSite(source())).toBe(true);
  expect(sources.isSite(source({ from: "docs.zip" }))).toBe(false);
});

test("what was left out is a text to read", () => {
  const text = sources.problemsText(source({ problems: ["https://x/: answered 404"], error: "why" }));
  expect(text).toContain("- https://x/: answered 404");
  expect(text).toContain("why");
  expect(sources.problemsText(source())).toContain("Nothing was left out.");
});

const wait = async (): Promise<void> => undefined;

test("a source is followed to its end, over passing faults", async () => {
  const answers = [
    source({ state: "queued" }),
    new Fault("refused", "away", ""),
    source({ state: "fetching" }),
    source(),
  ];
  const told: string[] = [];
  const gateway = fakeGateway({
    doc: async () => {
      const next = answers.shift();
      if (next instanceof Fault) throw next;
      return next;
    },
  });
  const signal = new AbortController().signal;
  const ended = await follow(gateway, "1", (now) => told.push(now.state), signal, { wait });
  expect(ended?.state).toBe("ready");
  expect(told).toEqual(["queued", "fetching", "ready"]);
  expect(await follow(gateway, "1", () => undefined, signal, { wait })).toBeUndefined();
});

test("a lasting fault is told, and an abort ends it", async () => {
  let asked = 0;
  const broken = (kind: "refused" | "unauthorized") =>
    fakeGateway({
      doc: () => {
        asked += 1;
        return Promise.reject(new Fault(kind, "no", ""));
      },
    });
  const signal = new AbortController().signal;
  await expect(follow(broken("unauthorized"), "1", () => undefined, signal, { wait })).rejects.toThrow("no");
  expect(asked).toBe(1);
  await expect(follow(broken("refused"), "1", () => undefined, signal, { wait, faults: 3 })).rejects.toThrow("no");
  expect(asked).toBe(4);
  const leaving = new AbortController();
  const reading = fakeGateway({ doc: async () => source({ state: "fetching" }) });
  const ended = await follow(reading, "1", () => leaving.abort(), leaving.signal, { everyMs: 60_000 });
  expect(ended).toBeUndefined();
});
