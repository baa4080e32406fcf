// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { bench, chatState, mention, turn } from "./bench";

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

const talk = (...turns: ReturnType<typeof turn>[]) => chatState({ current: { id: "c1", title: "", turns } });

describe("an answer", () => {
  it("streams in, ends with its figures, and is busy meanwhile for screen readers", () => {
    const on = bench(chatState());
    on.tell({ type: "turnStarted", turn: turn("t", { answer: "", ending: undefined }) });
    expect(on.find(".waiting").hidden).toBe(false);
    expect(on.find("article").getAttribute("aria-busy")).toBe("true");
    on.tell({ type: "delta", turn: "t", at: 0, text: "**He" });
    on.tell({ type: "delta", turn: "t", at: 4, text: "llo**" });
    expect(on.find(".markdown strong").textContent).toBe("Hello");
    expect(on.find(".waiting").hidden).toBe(true);
    const usage = { prompt: 1234, cached: 1100, completion: 10 };
    on.tell({ type: "turnEnded", turn: "t", ending: { usage, firstTokenMs: 85, totalMs: 900 } });
    expect(on.find(".stats").textContent).toBe("1,234 tokens, 1,100 cached (89\u00a0%), first token 85\u00a0ms");
    expect(Number.parseFloat(on.find(".cached").style.width)).toBeCloseTo(89.1, 1);
    expect(on.find("article").getAttribute("aria-busy")).toBe("false");
  });

  it("shows thoughts apart, closed, and grows them in place", () => {
    const on = bench(chatState());
    on.tell({ type: "turnStarted", turn: turn("t", { answer: "", ending: undefined }) });
    on.tell({ type: "delta", turn: "t", at: 0, text: "", reasoning: "<b>hm" });
    on.tell({ type: "delta", turn: "t", at: 0, text: "", reasoning: ", yes" });
    expect(on.find<HTMLDetailsElement>("details").open).toBe(false);
    expect(on.find(".thoughts").textContent).toBe("<b>hm, yes");
    expect(on.find(".waiting").textContent).toBe("Thinking");
    on.tell({ type: "delta", turn: "t", at: 0, text: "answer" });
    expect(on.find("summary").textContent).toBe("Thoughts");
  });

  it("that failed says what to do, keeps what came, and offers the remedy and a retry", () => {
    const fault = { message: "The key is wrong.", fix: "Enter it again.", command: "setKey" as const };
    const on = bench(talk(turn("t", { answer: "half", ending: { fault } })));
    expect(on.find("[role=alert]").textContent).toContain("The key is wrong. Enter it again.");
    expect(on.find(".markdown").textContent).toBe("half");
    on.button("Enter the key").click();
    on.button("Retry").click();
    expect(on.of("command")).toEqual([{ type: "command", name: "setKey" }]);
    expect(on.of("retry")).toEqual([{ type: "retry", turn: "t" }]);
  });

  it("that was stopped, cut or empty says so", () => {
    const on = bench(
      talk(
        turn("a", { ending: { stopped: true } }),
        turn("b", { ending: { truncated: true } }),
        turn("c", { answer: "" }),
      ),
    );
    const notes = on.all(".outcome .note").map((note) => note.textContent);
    expect(notes[0]).toBe("Stopped.");
    expect(notes[1]).toContain("Cut at the limit");
    expect(notes[2]).toContain("no answer");
    on.type("draft");
    on.button("Continue").click();
    expect(on.of("ask")[0]?.text).toMatch(/^Continue/);
    on.tell({ type: "turnStarted", turn: turn("d", { ending: undefined }) });
    expect(on.box.value).toBe("draft");
    on.all("[aria-label='Ask again']")[0]?.click();
    expect(on.of("retry")).toEqual([{ type: "retry", turn: "a" }]);
  });

  it("has its sources, chips and pictures", () => {
    const on = bench(
      talk(
        turn("t", {
          mentions: [mention("m")],
          images: ["data:image/png;base64,AA", "https://evil.example/x.png"],
          sources: [
            { title: "Guide", href: "https://e.org/g" },
            { title: "Bad", href: "javascript:x" },
          ],
        }),
      ),
    );
    expect(on.all(".question img")).toHaveLength(1);
    on.find(".question .chip button").click();
    expect(on.of("openMention")).toEqual([{ type: "openMention", id: "m", turn: "t" }]);
    expect(on.all(".sources a").map((link) => link.dataset.href)).toEqual(["https://e.org/g"]);
    expect(on.find(".sources").textContent).toContain("Bad");
  });

  it("opens links by click and by Enter through the extension", () => {
    const on = bench(talk(turn("t", { answer: "[a](src/a.ts)" })));
    const link = on.find(".markdown a");
    link.click();
    on.key(link, "Enter");
    on.key(link, "x");
    expect(on.of("openLink")).toEqual([
      { type: "openLink", href: "src/a.ts" },
      { type: "openLink", href: "src/a.ts" },
    ]);
  });
});

describe("code", () => {
  const answer = "```ts src/a.ts\nlet a = 1;\n```\n\n```sh\nls\n```";

  it("is applied, inserted, copied, run", () => {
    const on = bench(talk(turn("t", { answer })));
    for (const action of ["apply", "insert", "copy"]) on.find(`[data-action=${action}]`).click();
    on.find("[data-action=runInTerminal]").click();
    const place = { turn: "t", block: 0, code: "let a = 1;\n", language: "ts", path: "src/a.ts" };
    expect(on.of("apply")).toEqual([{ type: "apply", ...place }]);
    expect(on.of("insert")).toEqual([{ type: "insert", ...place }]);
    expect(on.of("copy")).toEqual([{ type: "copy", text: "let a = 1;\n" }]);
    expect(on.of("runInTerminal")).toEqual([
      { type: "runInTerminal", turn: "t", block: 1, code: "ls\n", language: "sh", path: undefined },
    ]);
    const copy = on.find("[data-action=copy]");
    expect(copy.className).toContain("copied");
    vi.advanceTimersByTime(2_000);
    expect(copy.className).not.toContain("copied");
  });

  it("shows what became of applying it", () => {
    const on = bench(talk(turn("t", { answer })));
    on.tell({ type: "applied", turn: "t", block: 0, state: "working" });
    expect(on.find(".applied").textContent).toBe("Preparing the diff");
    on.tell({ type: "applied", turn: "t", block: 0, state: "failed", detail: "a.ts is gone." });
    expect(on.all(".applied").map((line) => line.textContent)).toEqual(["Not applied: a.ts is gone."]);
    expect(on.find(".applied").className).toContain("failed");
  });

  it("is accepted or discarded where it was asked for, as long as the diff is open", () => {
    const on = bench(talk(turn("t", { answer })));
    on.tell({ type: "applied", turn: "t", block: 0, state: "shown", detail: "src/a.ts" });
    on.button("Accept").click();
    on.button("Discard").click();
    expect(on.of("decide")).toEqual([
      { type: "decide", turn: "t", block: 0, accepted: true },
      { type: "decide", turn: "t", block: 0, accepted: false },
    ]);
    on.tell({ type: "applied", turn: "t", block: 0, state: "applied", detail: "src/a.ts" });
    expect(on.all(".applied button")).toEqual([]);
  });

  it("keeps that line while the answer goes on", () => {
    const on = bench(talk(turn("t", { answer: "```ts\na\n```", ending: undefined })));
    on.tell({ type: "applied", turn: "t", block: 0, state: "applied", detail: "a.ts" });
    on.tell({ type: "delta", turn: "t", at: 11, text: "\n\nmore" });
    expect(on.find(".applied").textContent).toBe("Applied: a.ts");
  });

  it("copies the whole answer as Markdown", () => {
    const on = bench(talk(turn("t", { answer })));
    on.button("Copy the answer").click();
    expect(on.of("copy")).toEqual([{ type: "copy", text: answer }]);
  });
});

describe("editing a question", () => {
  it("happens in its place, tells what will be replaced, and leaves the draft alone", () => {
    const on = bench(talk(turn("a"), turn("b"), turn("c")));
    on.type("draft");
    on.button("Edit the question").click();
    const box = on.find<HTMLTextAreaElement>(".question-editor textarea");
    expect(box.value).toBe("question a");
    expect(document.activeElement).toBe(box);
    expect(on.find(".question-editor .note").textContent).toContain("2 questions");
    on.button("Edit the question").click();
    expect(on.all(".question-editor")).toHaveLength(1);
    box.value = "better";
    box.dispatchEvent(new Event("input"));
    on.key(box, "Enter");
    expect(on.of("edit")).toEqual([{ type: "edit", turn: "a", text: "better" }]);
    expect(on.all(".question-editor")).toHaveLength(0);
    expect(on.box.value).toBe("draft");
  });

  it("is cancelled by Escape without stopping anything, and sends no empty question", () => {
    const on = bench(talk(turn("a"), turn("b", { ending: undefined })));
    on.button("Edit the question").click();
    const box = on.find<HTMLTextAreaElement>(".question-editor textarea");
    expect(on.find(".question-editor .note").textContent).toContain("the question after");
    box.value = " ";
    on.button("Ask").click();
    expect(on.find(".question-editor .why-not").hidden).toBe(false);
    expect(on.key(box, "Enter", { shiftKey: true }).defaultPrevented).toBe(false);
    expect(on.key(box, "Enter", { isComposing: true }).defaultPrevented).toBe(false);
    on.key(box, "Escape");
    expect(on.all(".question-editor")).toHaveLength(0);
    expect(on.of("stop")).toEqual([]);
    on.button("Edit the question").click();
    on.button("Cancel").click();
    expect(on.of("edit")).toEqual([]);
  });
});
