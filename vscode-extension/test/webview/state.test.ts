// @vitest-environment happy-dom
import { describe, expect, it } from "vitest";
import { fromPage, type ToPage } from "../../src/features/chat/protocol";
import { savedOf } from "../../src/webview/chat/host";
import { type Act, EMPTY, modelOf, reduce, running, type View, whyNot } from "../../src/webview/chat/state";
import { chatState, mention, turn } from "./bench";

function view(...messages: (ToPage | Act)[]): View {
  return messages.reduce(reduce, reduce(EMPTY, { type: "state", state: chatState() }));
}

describe("turns", () => {
  const start: ToPage = { type: "turnStarted", turn: turn("t1", { answer: "", ending: undefined }) };

  it("grow by deltas until they end", () => {
    const running1 = view(
      start,
      { type: "delta", turn: "t1", at: 0, text: "Hel", reasoning: "hm" },
      { type: "delta", turn: "t1", at: 3, text: "lo" },
    );
    expect(running(running1)?.answer).toBe("Hello");
    expect(running(running1)?.reasoning).toBe("hm");
    const ended = reduce(running1, { type: "turnEnded", turn: "t1", ending: { stopped: true } });
    expect(running(ended)).toBeUndefined();
    expect(ended.chat?.current.turns[0]?.ending).toEqual({ stopped: true });
  });

  it("take a repeated delta once, and notice a missing one", () => {
    const one = view(start, { type: "delta", turn: "t1", at: 0, text: "abc" });
    expect(running(reduce(one, { type: "delta", turn: "t1", at: 0, text: "abc", reasoning: "x" }))).toEqual(
      running(one),
    );
    expect(running(reduce(one, { type: "delta", turn: "t1", at: 1, text: "bcd" }))?.answer).toBe("abcd");
    const missed = reduce(one, { type: "delta", turn: "t1", at: 9, text: "z" });
    expect(missed.lost).toBe(true);
    expect(running(missed)?.answer).toBe("abc");
    expect(reduce(missed, { type: "state", state: chatState() }).lost).toBe(false);
  });

  it("pass over what belongs to a conversation that is not shown", () => {
    const before = view(start);
    expect(reduce(before, { type: "delta", turn: "other", at: 0, text: "x" })).toBe(before);
  });

  it("replace from the one that was edited on", () => {
    const three = view(...["a", "b", "c"].map((id): ToPage => ({ type: "turnStarted", turn: turn(id) })));
    const edited = reduce(three, { type: "turnStarted", turn: turn("d"), from: "b" });
    expect(edited.chat?.current.turns.map(({ id }) => id)).toEqual(["a", "d"]);
    const unknown = reduce(three, { type: "turnStarted", turn: turn("d"), from: "zzz" });
    expect(unknown.chat?.current.turns.map(({ id }) => id)).toEqual(["a", "b", "c", "d"]);
    const again = reduce(three, { type: "turnStarted", turn: turn("c", { question: "new" }) });
    expect(again.chat?.current.turns).toHaveLength(3);
  });

  it("clear chips only when they were asked here", () => {
    const asked = view({ type: "mentions", mentions: [mention("a")] }, { type: "asked", text: "q" }, start);
    expect(asked.chat?.mentions).toEqual([]);
    expect(asked.started).toEqual({ number: 1, text: "q" });
    const retried = view(
      { type: "mentions", mentions: [mention("a")] },
      { type: "asked", text: "q" },
      { ...start, from: "t0" },
    );
    expect(retried.chat?.mentions).toHaveLength(1);
    expect(view(start).started.number).toBe(0);
  });

  it("keep the others' identity", () => {
    const two = view({ type: "turnStarted", turn: turn("a") }, start);
    const grown = reduce(two, { type: "delta", turn: "t1", at: 0, text: "x" });
    expect(grown.chat?.current.turns[0]).toBe(two.chat?.current.turns[0]);
    const sources = reduce(two, { type: "sources", turn: "a", sources: [{ title: "T", href: "https://e.org" }] });
    expect(sources.chat?.current.turns[0]?.sources).toHaveLength(1);
  });
});

describe("the rest", () => {
  it("takes parts of the state", () => {
    const changed = view(
      { type: "connection", connection: { kind: "offline", why: "w", fix: "f" } },
      { type: "folder", folder: { name: "n", state: "warm", why: "" } },
      { type: "models", models: [{ id: "m", vision: true }], model: "m" },
      { type: "tokens", prompt: 5 },
      { type: "focus" },
      { type: "notice", text: "hi" },
    );
    expect(changed.chat?.connection.kind).toBe("offline");
    expect(changed.chat?.folder?.name).toBe("n");
    expect(modelOf(changed.chat)?.vision).toBe(true);
    expect(changed.tokens).toEqual({ prompt: 5, limit: undefined });
    expect(changed.focus.number).toBe(1);
    expect(changed.notice?.text).toBe("hi");
    expect(reduce(changed, { type: "noticeClosed" }).notice).toBeUndefined();
  });

  it("changes nothing for an unknown message, and nothing before the state", () => {
    const before = view();
    expect(reduce(before, { type: "nonsense" } as unknown as ToPage)).toBe(before);
    expect(reduce(EMPTY, { type: "mentions", mentions: [] })).toBe(EMPTY);
  });

  it("ignores suggestions and search results for older questions", () => {
    const newer = view({ type: "suggestions", requestNumber: 5, items: [] });
    expect(reduce(newer, { type: "suggestions", requestNumber: 4, items: [] })).toBe(newer);
    const searched = view({ type: "historySearched", query: "x" });
    expect(reduce(searched, { type: "conversations", requestNumber: 7, items: [] })).toBe(searched);
    const found = reduce(searched, {
      type: "conversations",
      requestNumber: 1,
      items: [{ id: "a", title: "A", at: 0, turns: 1 }],
    });
    expect(found.history.found).toHaveLength(1);
    expect(reduce(found, { type: "conversationRemoved", id: "a", title: "A" }).history.found).toEqual([]);
    expect(reduce(found, { type: "conversationRenamed", id: "a", title: "B" }).history.found?.[0]?.title).toBe("B");
  });

  it("forgets what was applied when another conversation is shown", () => {
    const applied = view({ type: "applied", turn: "t", block: 0, state: "applied", detail: "a.ts" });
    expect(reduce(applied, { type: "state", state: chatState() }).applied).toEqual(applied.applied);
    const other = chatState({ current: { id: "c2", title: "", turns: [] } });
    expect(reduce(applied, { type: "state", state: other }).applied).toEqual({});
  });

  it("holds a picked mention once", () => {
    const twice = view(
      { type: "mentionPicked", mention: mention("a") },
      { type: "mentionPicked", mention: mention("a") },
    );
    expect(twice.chat?.mentions).toHaveLength(1);
    expect(reduce(twice, { type: "mentionRemoved", id: "a" }).chat?.mentions).toEqual([]);
  });
});

describe("whyNot", () => {
  const at = (change: Parameters<typeof chatState>[0]) => reduce(EMPTY, { type: "state", state: chatState(change) });

  it("lets a question go, also to a server that was away", () => {
    expect(whyNot(view(), "q", 0)).toBeUndefined();
    expect(whyNot(at({ connection: { kind: "offline", why: "x", fix: "y" } }), "q", 0)).toBeUndefined();
  });

  it("tells the reason", () => {
    expect(whyNot(EMPTY, "q", 0)).toMatch(/editor/);
    expect(whyNot(view(), " ", 0)).toBe("");
    expect(whyNot(at({ connection: { kind: "no_key", why: "", fix: "" } }), "q", 0)).toMatch(/key/);
    expect(whyNot(at({ connection: { kind: "no_model", why: "None.", fix: "" } }), "q", 0)).toBe("None.");
    expect(whyNot(view({ type: "asked", text: "q" }), "q", 0)).toBe("Sending.");
    expect(whyNot(view({ type: "asked", text: "q" }, { type: "askForgotten" }), "q", 0)).toBeUndefined();
    expect(whyNot(view({ type: "turnStarted", turn: turn("t", { ending: undefined }) }), "q", 0)).toMatch(/Stop/);
    expect(whyNot(view(), "q", 1)).toMatch(/coder cannot see pictures/);
    expect(whyNot(at({ models: [{ id: "coder", vision: true }] }), "", 1)).toBeUndefined();
  });
});

describe("what comes from the page", () => {
  it("is taken when it has the right fields", () => {
    for (const message of [
      { type: "ready" },
      { type: "ask", text: "q", mentions: ["a"], images: [] },
      { type: "suggest", query: "", requestNumber: 1 },
      { type: "apply", turn: "t", block: 0, code: "", language: "ts" },
      { type: "command", name: "setUp" },
    ]) {
      expect(fromPage(message)).toBe(message);
    }
  });

  it("is refused else", () => {
    for (const message of [
      undefined,
      null,
      "ready",
      {},
      { type: "toString" },
      { type: "nonsense" },
      { type: "ask", text: 1, mentions: [], images: [] },
      { type: "ask", text: "q", mentions: [1], images: [] },
      { type: "suggest", query: "", requestNumber: Number.NaN },
      { type: "suggest", query: "", requestNumber: 1, kind: 7 },
      { type: "command", name: "workbench.action.quit" },
    ]) {
      expect(fromPage(message)).toBeUndefined();
    }
  });
});

describe("what the editor kept", () => {
  it("is taken as far as it makes sense", () => {
    expect(savedOf(undefined).scroll).toBe(-1);
    expect(savedOf({ draft: 1, images: ["a", 2], conversation: "c", scroll: 5 })).toEqual({
      draft: "",
      images: ["a"],
      conversation: "c",
      scroll: 5,
    });
  });
});
