// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Suggestion } from "../../src/features/chat/protocol";
import { type Bench, bench, chatState, mention, turn } from "./bench";

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

const row = (id: string, insert = `@file:${id}`): Suggestion => ({
  id,
  kind: "file",
  label: id,
  detail: `src/${id}`,
  insert,
  icon: "file",
});

describe("asking", () => {
  it("sends with Enter, and lets go of the text only when the turn has started", () => {
    const on = bench(chatState({ mentions: [mention("a")] }));
    on.type("why?");
    expect(on.key(on.box, "Enter").defaultPrevented).toBe(true);
    expect(on.of("ask")).toEqual([{ type: "ask", text: "why?", mentions: ["a"], images: [] }]);
    expect(on.box.value).toBe("why?");
    on.tell({ type: "turnStarted", turn: turn("t", { question: "why?", ending: undefined }) });
    expect(on.box.value).toBe("");
    expect(on.all(".composer .chip")).toHaveLength(0);
  });

  it("sends once however often Enter is pressed, and again when the extension was silent", () => {
    const on = bench(chatState());
    on.type("q");
    on.key(on.box, "Enter");
    on.key(on.box, "Enter");
    expect(on.of("ask")).toHaveLength(1);
    expect(on.find(".why-not").textContent).toBe("Sending.");
    vi.advanceTimersByTime(6_000);
    on.key(on.box, "Enter");
    expect(on.of("ask")).toHaveLength(2);
  });

  it("keeps what was typed after Enter", () => {
    const on = bench(chatState());
    on.type("one");
    on.key(on.box, "Enter");
    on.type("one and more");
    on.tell({ type: "turnStarted", turn: turn("t", { question: "one" }) });
    expect(on.box.value).toBe(" and more");
  });

  it("keeps the text when the extension refuses", () => {
    const on = bench(chatState());
    on.type("q");
    on.key(on.box, "Enter");
    on.tell({ type: "notice", text: "No." });
    expect(on.box.value).toBe("q");
    on.key(on.box, "Enter");
    expect(on.of("ask")).toHaveLength(2);
  });

  it("makes a new line with Shift+Enter, and leaves Enter to an input method", () => {
    const on = bench(chatState());
    on.type("q");
    expect(on.key(on.box, "Enter", { shiftKey: true }).defaultPrevented).toBe(false);
    expect(on.key(on.box, "Enter", { isComposing: true }).defaultPrevented).toBe(false);
    expect(on.of("ask")).toEqual([]);
  });

  it("says why it does not send, and keeps the text", () => {
    const on = bench(chatState({ connection: { kind: "no_key", why: "The server wants a key.", fix: "Enter it." } }));
    on.type("q");
    on.key(on.box, "Enter");
    expect(on.of("ask")).toEqual([]);
    expect(on.find(".why-not").textContent).toBe("The server wants a key.");
    expect(on.button("Send").getAttribute("aria-disabled")).toBe("true");
    expect(on.box.value).toBe("q");
  });

  it("stops with the button and with Escape", () => {
    const on = bench(chatState());
    expect(on.button("Stop (Escape)").hidden).toBe(true);
    on.tell({ type: "turnStarted", turn: turn("t", { ending: undefined }) });
    on.button("Stop (Escape)").click();
    on.key(on.box, "Escape");
    expect(on.of("stop")).toHaveLength(2);
    on.type("next");
    on.key(on.box, "Enter");
    expect(on.find(".why-not").textContent).toMatch(/An answer is coming/);
    on.tell({ type: "turnEnded", turn: "t", ending: {} });
    expect(on.button("Stop (Escape)").hidden).toBe(true);
    on.key(on.box, "Enter");
    expect(on.of("ask")).toHaveLength(1);
    on.key(on.box, "Escape");
    expect(on.of("stop")).toHaveLength(2);
  });

  it("recalls earlier questions with Up from an empty box, and goes back with Down", () => {
    const on = bench(chatState({ current: { id: "c", title: "", turns: [turn("1"), turn("2")] } }));
    on.key(on.box, "ArrowUp");
    expect(on.box.value).toBe("question 2");
    on.key(on.box, "ArrowUp");
    expect(on.box.value).toBe("question 1");
    expect(on.key(on.box, "ArrowUp").defaultPrevented).toBe(false);
    on.key(on.box, "ArrowDown");
    expect(on.box.value).toBe("question 2");
    on.key(on.box, "ArrowDown");
    expect(on.box.value).toBe("");
    on.type("mine");
    on.key(on.box, "ArrowUp");
    on.key(on.box, "ArrowDown");
    expect(on.box.value).toBe("mine");
  });
});

describe("drafts", () => {
  it("are told shortly after typing, and kept by the editor", () => {
    const on = bench(chatState());
    on.type("half");
    on.type("half a question");
    expect(on.of("draft")).toEqual([]);
    vi.advanceTimersByTime(400);
    expect(on.of("draft")).toEqual([{ type: "draft", text: "half a question" }]);
    expect(on.saved()).toMatchObject({ draft: "half a question", conversation: "c1" });
  });

  it("come back: the page's own first, else the extension's", () => {
    expect(bench(chatState({ draft: "theirs" }), { draft: "mine" }).box.value).toBe("mine");
    expect(bench(chatState({ draft: "theirs" })).box.value).toBe("theirs");
  });

  it("are not touched by another conversation's state", () => {
    const on = bench(chatState());
    on.type("mine");
    on.tell({ type: "state", state: chatState({ draft: "other", current: { id: "c2", title: "", turns: [] } }) });
    expect(on.box.value).toBe("mine");
  });

  it("are kept at once when the page goes", () => {
    const on = bench(chatState());
    on.type("x");
    window.dispatchEvent(new Event("pagehide"));
    expect(on.saved()).toMatchObject({ draft: "x" });
  });
});

describe("mentions", () => {
  function typing(text = "see @ma"): Bench {
    const on = bench(chatState());
    on.type(text);
    return on;
  }

  it("ask for rows as one types, with the category apart", () => {
    const on = typing();
    on.type("see @file:ma");
    on.type("mail a@b");
    expect(on.of("suggest")).toEqual([
      { type: "suggest", query: "ma", kind: undefined, requestNumber: 1 },
      { type: "suggest", query: "ma", kind: "file", requestNumber: 2 },
    ]);
  });

  it("are picked by key: the text, the chip and the extension know", () => {
    const on = typing();
    on.tell({ type: "suggestions", requestNumber: 1, items: [row("main.ts"), row("make.ts")] });
    expect(on.box.getAttribute("aria-expanded")).toBe("true");
    on.key(on.box, "ArrowDown");
    expect(on.find("[aria-selected=true]").textContent).toContain("make.ts");
    expect(on.box.getAttribute("aria-activedescendant")).toBe(on.find("[aria-selected=true]").id);
    on.key(on.box, "Enter");
    expect(on.box.value).toBe("see @file:make.ts ");
    expect(on.of("addMention")).toEqual([{ type: "addMention", id: "make.ts" }]);
    expect(on.of("ask")).toEqual([]);
    expect(on.all(".composer .chip").map((chip) => chip.dataset.mention)).toEqual(["make.ts"]);
    expect(on.find(".suggestions").hidden).toBe(true);
  });

  it("go on below a category", () => {
    const on = typing("@");
    on.tell({ type: "suggestions", requestNumber: 1, items: [row("files", "@file:")] });
    on.key(on.box, "Tab");
    expect(on.box.value).toBe("@file:");
    expect(on.of("addMention")).toEqual([]);
    expect(on.of("suggest").at(-1)).toMatchObject({ kind: "file", query: "" });
  });

  it("are picked by mouse without the box losing the focus", () => {
    const on = typing();
    on.tell({ type: "suggestions", requestNumber: 1, items: [row("main.ts"), row("make.ts")] });
    const second = on.all("[role=option]")[1];
    second?.dispatchEvent(new MouseEvent("mousemove", { bubbles: true }));
    expect(on.find("[aria-selected=true]")).toBe(second);
    const press = new MouseEvent("mousedown", { bubbles: true, cancelable: true });
    second?.dispatchEvent(press);
    expect(press.defaultPrevented).toBe(true);
    expect(on.of("addMention")).toEqual([{ type: "addMention", id: "make.ts" }]);
  });

  it("close with Escape and stay closed for this word", () => {
    const on = typing();
    on.tell({ type: "suggestions", requestNumber: 1, items: [row("main.ts")] });
    on.key(on.box, "Escape");
    expect(on.find(".suggestions").hidden).toBe(true);
    on.type("see @mai");
    expect(on.of("suggest")).toHaveLength(1);
    on.type("see @mai and @o");
    expect(on.of("suggest")).toHaveLength(2);
    expect(on.of("stop")).toEqual([]);
  });

  it("wrap around, page, and say when nothing was found", () => {
    const on = typing();
    on.tell({
      type: "suggestions",
      requestNumber: 1,
      items: Array.from({ length: 12 }, (_, index) => row(`f${index}`)),
    });
    on.key(on.box, "ArrowUp");
    expect(on.find("[aria-selected=true]").dataset.row).toBe("11");
    on.key(on.box, "PageUp");
    expect(on.find("[aria-selected=true]").dataset.row).toBe("3");
    on.key(on.box, "PageUp");
    expect(on.find("[aria-selected=true]").dataset.row).toBe("0");
    on.type("see @zzz");
    on.tell({ type: "suggestions", requestNumber: 2, items: [] });
    expect(on.find(".suggestions").textContent).toBe("Nothing found");
    on.key(on.box, "Enter");
    expect(on.of("ask")).toHaveLength(1);
  });

  it("show no popup for a lone @ without rows, nor rows that come too late", () => {
    const on = typing("@");
    on.tell({ type: "suggestions", requestNumber: 1, items: [] });
    expect(on.find(".suggestions").hidden).toBe(true);
    on.type("@x y");
    on.tell({ type: "suggestions", requestNumber: 2, items: [row("late")] });
    expect(on.find(".suggestions").hidden).toBe(true);
  });

  it("have chips with tokens and problems, opened and removed by click and Backspace", () => {
    const on = bench(chatState({ mentions: [mention("a"), mention("b", { problem: "Too large." })] }));
    const [first, second] = on.all(".composer .chip");
    expect(first?.textContent).toContain("1.2k");
    expect(second?.className).toContain("warning");
    expect(second?.querySelector("button")?.title).toContain("Too large.");
    first?.querySelector("button")?.click();
    expect(on.of("openMention")).toEqual([{ type: "openMention", id: "a" }]);
    on.button("Remove a.ts").click();
    on.key(on.box, "Backspace");
    expect(on.of("removeMention").map(({ id }) => id)).toEqual(["a", "b"]);
    expect(on.all(".composer .chip")).toHaveLength(0);
  });
});

describe("dropping and pasting", () => {
  const vision = chatState({ models: [{ id: "coder", vision: true }] });
  const png = (bytes = 3) => new File([new Uint8Array(bytes)], "a.png", { type: "image/png" });

  function give(on: Bench, type: "drop" | "paste", data: Record<string, string>, files: File[] = []): Event {
    const event = new Event(type, { bubbles: true, cancelable: true });
    const transfer = { getData: (name: string) => data[name] ?? "", files };
    Object.defineProperty(event, type === "drop" ? "dataTransfer" : "clipboardData", { value: transfer });
    on.box.dispatchEvent(event);
    return event;
  }

  it("tells the extension of files from wherever they are dragged", () => {
    const on = bench(chatState());
    give(on, "drop", {
      "application/vnd.code.uri-list": "file:///a.ts\r\n# comment\r\nvscode-remote://x/b.ts",
      resourceurls: '["file:///a.ts","file:///c.ts"]',
      codefiles: '["/d e.ts","C:\\\\f.ts"]',
      "text/uri-list": "https://example.org/",
    });
    expect(on.of("drop")).toEqual([
      {
        type: "drop",
        uris: ["file:///a.ts", "vscode-remote://x/b.ts", "file:///c.ts", "file:///d%20e.ts", "file:///C:/f.ts"],
      },
    ]);
  });

  it("says what to do with what it cannot take", () => {
    const on = bench(chatState());
    give(on, "drop", { resourceurls: "not json" });
    expect(on.find(".notice").textContent).toContain("@file");
    vi.advanceTimersByTime(7_000);
    expect(on.find(".notice").hidden).toBe(true);
  });

  it("shows where to drop", () => {
    const on = bench(chatState());
    const over = new Event("dragover", { bubbles: true, cancelable: true });
    on.box.dispatchEvent(over);
    expect(over.defaultPrevented).toBe(true);
    expect(on.find(".composer").className).toContain("drop-here");
    on.box.dispatchEvent(new Event("dragleave", { bubbles: true }));
    expect(on.find(".composer").className).not.toContain("drop-here");
  });

  it("takes pictures for a model that sees, sends and forgets them with the question", async () => {
    vi.useRealTimers();
    const on = bench(vision);
    expect(give(on, "paste", {}, [png()]).defaultPrevented).toBe(true);
    await vi.waitFor(() => expect(on.all(".composer img")).toHaveLength(1));
    on.key(on.box, "Enter");
    expect(on.of("ask")[0]?.images[0]).toMatch(/^data:image\/png;base64,/);
    on.tell({ type: "turnStarted", turn: turn("t") });
    expect(on.all(".composer img")).toHaveLength(0);
  });

  it("keeps pictures while hidden, and removes one", () => {
    const on = bench(vision, { images: ["data:image/png;base64,AA"] });
    expect(on.all(".composer img")).toHaveLength(1);
    on.page.keep();
    expect(on.saved()).toMatchObject({ images: ["data:image/png;base64,AA"] });
    on.button("Remove picture 1").click();
    expect(on.all(".composer img")).toHaveLength(0);
  });

  it("refuses pictures with a reason, and leaves pasted text alone", () => {
    const blind = bench(chatState());
    give(blind, "paste", {}, [png()]);
    expect(blind.find(".notice").textContent).toContain("coder cannot see pictures");
    expect(give(blind, "paste", { "text/plain": "x" }).defaultPrevented).toBe(false);
    const on = bench(vision);
    give(on, "drop", {}, [png(9 * 1024 * 1024)]);
    expect(on.find(".notice").textContent).toContain("8 MB");
    give(
      on,
      "drop",
      {},
      Array.from({ length: 5 }, () => png()),
    );
    expect(on.find(".notice").textContent).toContain("At most 4");
  });
});

describe("the line below", () => {
  it("chooses the model", () => {
    const on = bench(chatState());
    on.tell({
      type: "models",
      models: [
        { id: "a", vision: false },
        { id: "b", vision: false },
      ],
      model: "b",
    });
    const select = on.find<HTMLSelectElement>("select");
    expect(select.value).toBe("b");
    select.value = "a";
    select.dispatchEvent(new Event("change"));
    expect(on.of("chooseModel")).toEqual([{ type: "chooseModel", id: "a" }]);
    on.tell({ type: "models", models: [], model: undefined });
    expect(select.disabled).toBe(true);
    expect(select.textContent).toBe("No model");
  });

  it("shows what the question would fill, and warns when that is too much", () => {
    const on = bench(chatState());
    on.tell({ type: "tokens", prompt: 12431, limit: 32768 });
    expect(on.find(".meter").textContent).toBe("12.4k / 32.8k");
    expect(Number.parseFloat(on.find(".level").style.width)).toBeCloseTo(37.94, 1);
    expect(on.find(".meter").getAttribute("aria-label")).toBe("About 12,431 of 32,768 tokens (38 %)");
    on.tell({ type: "tokens", prompt: 40000, limit: 32768 });
    expect(on.find(".meter").className).toContain("warning");
    expect(on.find(".meter").title).toContain("More than the model takes");
    on.tell({ type: "tokens", prompt: 900 });
    expect(on.find(".meter").textContent).toBe("900");
    on.tell({ type: "tokens", prompt: 0 });
    expect(on.find(".meter").hidden).toBe(true);
  });

  it("takes the focus, with text where the editor gives some", () => {
    const on = bench(chatState());
    on.type("look at");
    on.tell({ type: "focus", text: "@selection" });
    expect(on.box.value).toBe("look at @selection");
    expect(document.activeElement).toBe(on.box);
  });
});
