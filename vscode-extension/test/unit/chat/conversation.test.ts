import { describe, expect, it } from "vitest";
import { Fault } from "../../../src/api/fault";
import {
  ask,
  change,
  empty,
  finish,
  headOf,
  laterThan,
  rename,
  settled,
  turnOf,
  UNNAMED,
  viewOf,
} from "../../../src/features/chat/conversation";
import { fileName, toMarkdown } from "../../../src/features/chat/export";
import { countedTooLong, faultView, sentenceOf, withoutModel } from "../../../src/features/chat/faults";
import { findIn } from "../../../src/features/chat/search";
import { Thinking } from "../../../src/features/chat/thinking";
import { shorten, titleOf } from "../../../src/features/chat/title";
import { block, kept, turn } from "./made";

describe("a conversation", () => {
  it("is named by its first question", () => {
    const one = ask(empty("c", 1), turn("1", "How does the parser work? Tell me.", ""));
    expect(one.title).toBe("How does the parser work?");
    expect(ask(one, turn("2", "And the lexer?", "")).title).toBe("How does the parser work?");
    expect(ask(empty("c", 1), turn("1", "```\n```", "")).title).toBe(UNNAMED);
  });

  it("loses what came after a question that is asked anew", () => {
    const three = kept("c", [turn("1", "a", "A"), turn("2", "b", "B"), turn("3", "c", "C")]);
    expect(laterThan(three, "1").map(({ id }) => id)).toEqual(["2", "3"]);
    expect(laterThan(three, "nope")).toEqual([]);
    const anew = ask(three, turn("4", "b2", ""), "2");
    expect(anew.turns.map(({ id }) => id)).toEqual(["1", "4"]);
    expect(three.turns).toHaveLength(3);
    expect(ask(three, turn("4", "d", ""), "gone").turns).toHaveLength(4);
  });

  it("takes its name from the first question asked anew, unless a person gave it", () => {
    const one = kept("c", [turn("1", "old", "A")], { title: "old" });
    expect(ask(one, turn("2", "Something else", ""), "1").title).toBe("Something else");
    expect(ask(rename(one, "Mine"), turn("2", "Something else", ""), "1").title).toBe("Mine");
    expect(rename(one, "  ").named).toBe(false);
  });

  it("does not change by what is about a turn that is gone", () => {
    const one = kept("c", [turn("1", "a", "A")]);
    expect(change(one, "9", { answer: "x" }, 5)).toBe(one);
    expect(turnOf(finish(one, "1", { stopped: true }, 5), "1")?.ending).toEqual({ stopped: true });
  });

  it("counts an answer that was cut off by the editor's end as stopped, and keeps what had come", () => {
    const { ending: _, ...open } = turn("1", "a", "half an ans");
    expect(settled(kept("c", [open])).turns[0]).toMatchObject({ answer: "half an ans", ending: { stopped: true } });
    const done = kept("c", [turn("1", "a", "A")]);
    expect(settled(done)).toBe(done);
  });

  it("shows the page no texts of context", () => {
    const view = viewOf(kept("c", [turn("1", "a", "A", { blocks: [block("a.ts", "SECRET")] })]));
    expect(JSON.stringify(view)).not.toContain("SECRET");
    expect(headOf(kept("c", [turn("1", "a", "A")]))).toEqual({ id: "c", title: "A title", at: 2_000, turns: 1 });
  });
});

describe("a title", () => {
  it.each([
    ["Explain this function.", "Explain this function"],
    ["@file src/a.ts why is it slow?", "src/a.ts why is it slow?"],
    ["@selection what is this", "what is this"],
    ["# Heading\n\nmore", "Heading"],
    ["Fix:\n```ts\nlet a\n```", "Fix"],
    ["```py\nprint(1)\n```", "print(1)"],
    ["   \n  two  words ", "two words"],
    ["ok. go on", "ok. go on"],
    ["...", ""],
    ["为什么这么慢？", "为什么这么慢？"],
  ])("of %j is %j", (question, title) => {
    expect(titleOf(question)).toBe(title);
  });

  it("is cut at a word, and names the context where the question is nothing", () => {
    const long = titleOf(`${"many words ".repeat(20)}`);
    expect(long.length).toBeLessThanOrEqual(60);
    expect(long).toMatch(/(many|words)…$/);
    expect(titleOf("@selection", [{ label: "a.ts:1-3" }])).toBe("a.ts:1-3");
    expect(shorten("x".repeat(80))).toHaveLength(60);
  });
});

describe("thoughts", () => {
  function all(pieces: readonly string[]): { text: string; reasoning: string } {
    const thinking = new Thinking();
    const parts = [...pieces.map((piece) => thinking.add(piece)), thinking.end()];
    return { text: parts.map((part) => part.text).join(""), reasoning: parts.map((part) => part.reasoning).join("") };
  }

  it.each([
    ["<think>why</think>\n\nBecause.", { text: "Because.", reasoning: "why" }],
    ["Because <think> is a tag.", { text: "Because <think> is a tag.", reasoning: "" }],
    ["<think>only thoughts", { text: "", reasoning: "only thoughts" }],
    ["<thi", { text: "<thi", reasoning: "" }],
    ["  plain", { text: "  plain", reasoning: "" }],
    ["<think></think>x </think> y", { text: "x </think> y", reasoning: "" }],
  ])("%j is told apart, however it is cut into pieces", (text, wanted) => {
    for (let size = 1; size <= text.length; size++) {
      const pieces = text.match(new RegExp(`[\\s\\S]{1,${size}}`, "g")) ?? [];
      expect(all(pieces)).toEqual(wanted);
    }
  });
});

describe("finding", () => {
  const one = kept("c", [
    turn("1", "Where is the naïve parser?", "In `src/parse.ts`, near the Tokenizer.", {
      mentions: [{ id: "file:x", kind: "file", label: "parse.ts", detail: "src/deep/parse.ts" }],
    }),
  ]);

  it.each([
    ["title", { titled: true, snippet: "" }],
    ["naive", { titled: false }],
    ["TOKENIZER parser", { titled: false }],
    ["title tokenizer", { titled: false }],
    ["deep", { titled: false }],
  ])("%s is there", (query, wanted) => {
    expect(findIn(one, query)).toMatchObject(wanted);
  });

  it("wants all words, and shows where", () => {
    expect(findIn(one, "parser nowhere")).toBeUndefined();
    expect(findIn(one, "tokenizer")?.snippet).toContain("near the Tokenizer");
  });
});

describe("the export", () => {
  it("has all that was said", () => {
    const text = toMarkdown(
      kept("c", [
        turn("1", "a?", "Look:\n```ts\nlet x", {
          mentions: [{ id: "file:x", kind: "file", label: "x.ts", detail: "src/x.ts" }],
          images: ["data:"],
          sources: [{ title: "A page", href: "https://a.example/b" }],
          ending: { stopped: true, usage: { prompt: 10, cached: 8, completion: 3 } },
        }),
        turn("2", "b?", "", { ending: { fault: { message: "It broke.", fix: "Mend it." } } }),
      ]),
    );
    expect(text).toMatch(/^# A title\n\n\*1970-01-01\*\n\n## Question\n\na\?/);
    expect(text).toContain("- file: src/x.ts");
    expect(text).toContain("let x\n```\n");
    expect(text).toContain("1. [A page](<https://a.example/b>)");
    expect(text).toContain("*m, 10 tokens read, 8 of them cached, 3 written*");
    expect(text).toContain("*Stopped.*");
    expect(text).toContain("*No answer.*");
    expect(text).toContain("*It broke. Mend it.*");
  });

  it("has a file name of its title", () => {
    expect(fileName(kept("c", [], { title: "Why / so: slow?" }))).toBe("Why-so-slow.md");
    expect(fileName(kept("c", [], { title: "???" }))).toBe("chat.md");
  });
});

describe("errors", () => {
  it("say why there is no model, by how the server stands", () => {
    expect(withoutModel({ kind: "ready", why: "", fix: "" }).message).toBe("The server has no model that chats.");
    expect(withoutModel({ kind: "offline", why: "Away.", fix: "Start it." })).toEqual({
      message: "Away.",
      fix: "Start it.",
      command: "check",
    });
    expect(withoutModel({ kind: "no_key", why: "A key is wanted.", fix: "" }).command).toBe("setKey");
  });

  it("say what to do, with a button where there is one", () => {
    expect(faultView(new Fault("unauthorized", "No.", "Enter a key."))).toEqual({
      message: "No.",
      fix: "Enter a key.",
      command: "setKey",
    });
    expect(faultView(new Fault("server", "It broke.", "Look."))).toEqual({ message: "It broke.", fix: "Look." });
    expect(faultView(new Error("odd")).message).toContain("odd");
    expect(sentenceOf(new Fault("server", "It broke.", "Look."))).toBe("It broke. Look.");
    expect(faultView("text").message).toContain("text");
  });

  it.each([
    [
      "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4500 in the messages, 500 in the completion).",
      4500,
    ],
    ["The prompt is too long: the prompt contains at least 9,001 input tokens", 0],
    ["Input is too long.", 0],
    ["The model does not know this parameter.", undefined],
  ])("%s", (message, counted) => {
    expect(countedTooLong(new Fault("bad_request", message, ""))).toBe(counted);
    expect(countedTooLong(new Fault("server", message, ""))).toBeUndefined();
  });
});
