import { describe, expect, it } from "vitest";
import type { KeptTurn } from "../../../src/features/chat/conversation";
import {
  blockText,
  fitPrompt,
  messagesOf,
  roomOf,
  SYSTEM,
  sizeOf,
  systemText,
  textOf,
} from "../../../src/features/chat/prompt";
import { block, turn } from "./made";

const WISHES = { instructions: "", vision: false };
const tokens = (text: string): number => Math.ceil(text.length / 3.5);

/** The same numbers in each run. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function conversation(seed: number, length: number): KeptTurn[] {
  const next = random(seed);
  const some = (most: number): number => Math.floor(next() * most);
  const words = ["a", "```", "fix\nit", "ünï", "  ", "### x", "`b`", "\r\n", "🙂"];
  const text = (most: number): string =>
    Array.from({ length: 1 + some(most) }, () => words[some(words.length)]).join(" ");
  return Array.from({ length }, (_, at) => {
    const blocks = Array.from({ length: some(4) }, () => block(`f${some(4)}.ts`, text(30)));
    return turn(`t${at}`, `question ${at} ${text(8)}`, `answer ${at} ${text(20)}`, { blocks });
  });
}

describe("the messages", () => {
  it("of each turn begin with the bytes of those before", () => {
    for (let seed = 1; seed <= 60; seed++) {
      const turns = conversation(seed, 7);
      for (let at = 1; at < turns.length; at++) {
        const before = messagesOf([...turns.slice(0, at - 1), { ...(turns[at - 1] as KeptTurn), answer: "" }], WISHES);
        const after = messagesOf([...turns.slice(0, at), { ...(turns[at] as KeptTurn), answer: "" }], WISHES);
        expect(after.length).toBe(before.length + 2);
        expect(JSON.stringify(after.slice(0, before.length))).toBe(JSON.stringify(before));
      }
    }
  });

  it("begin with a system message that is constant but for the person's own instructions", () => {
    expect(messagesOf([turn("1", "a", "")], WISHES)[0]).toEqual({ role: "system", content: SYSTEM });
    expect(SYSTEM).not.toMatch(/\d{4}-\d\d|\$\{/);
    expect(systemText(" Be brief. ")).toBe(`${SYSTEM}\n\nThe user's own instructions:\nBe brief.`);
  });

  it("have a question's context in front of it, each under its path and fenced", () => {
    const [, message] = messagesOf([turn("1", "why?", "", { blocks: [block("src/a.ts", "let a = 1;")] })], WISHES);
    expect(message?.content).toBe("### src/a.ts\n```ts\nlet a = 1;\n```\n\nwhy?");
  });

  it("do not send the same text twice, but a changed one", () => {
    const turns = [
      turn("1", "a", "b", { blocks: [block("a.ts", "one")] }),
      turn("2", "c", "d", { blocks: [block("a.ts", "one")] }),
      turn("3", "e", "", { blocks: [block("a.ts", "two")] }),
    ];
    const [, first, , second, , third] = messagesOf(turns, WISHES);
    expect(first?.content).toContain("one");
    expect(second?.content).toBe("### a.ts\n(unchanged, see above)\n\nc");
    expect(third?.content).toContain("two");
  });

  it("say the text again where the earlier one was left out", () => {
    const cut = { ...block("a.ts", "one"), cut: true };
    const turns = [turn("1", "a", "b", { blocks: [cut] }), turn("2", "c", "", { blocks: [block("a.ts", "one")] })];
    const [, first, , second] = messagesOf(turns, WISHES);
    expect(first?.content).toContain("(left out: no room)");
    expect(second?.content).toContain("```ts\none\n```");
  });

  it("join a question that got no answer to the next, so that user and assistant take turns", () => {
    const turns = [turn("1", "a", "b"), turn("2", "lost", ""), turn("3", "again", "")];
    const messages = messagesOf(turns, WISHES);
    expect(messages.map((message) => message.role)).toEqual(["system", "user", "assistant", "user"]);
    expect(messages.at(-1)?.content).toBe("lost\n\nagain");
  });

  it("carry pictures to a model that sees, and a note to one that does not", () => {
    const turns = [turn("1", "what is it", "", { images: ["data:image/png;base64,AAAA"] })];
    const seen = messagesOf(turns, { instructions: "", vision: true }).at(-1)?.content;
    expect(seen).toEqual([
      { type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } },
      { type: "text", text: "what is it" },
    ]);
    expect(textOf(seen ?? "")).toBe("what is it");
    expect(messagesOf(turns, WISHES).at(-1)?.content).toMatch(/cannot see/);
    const size = (vision: boolean): number => sizeOf(messagesOf(turns, { instructions: "", vision }), tokens);
    expect(size(true) - size(false)).toBeGreaterThan(900);
  });

  it("have a fence that no text can close", () => {
    expect(blockText({ ...block("a.md", "````\nx\n````"), language: "md", note: "part" })).toBe(
      "### a.md\n(part)\n`````md\n````\nx\n````\n`````",
    );
    expect(blockText({ ...block("D", "[1] a"), kind: "docs" })).toBe("### D\n[1] a");
  });
});

describe("the room", () => {
  it("is shared between prompt and answer", () => {
    expect(roomOf(undefined, 4_096)).toEqual({ prompt: Number.POSITIVE_INFINITY, answer: 4_096 });
    expect(roomOf(32_768, 4_096).answer).toBe(4_096);
    expect(roomOf(4_096, 4_096).answer).toBe(1_024);
    const { prompt, answer } = roomOf(8_192, 4_096);
    expect(prompt + answer).toBeLessThan(8_192);
  });
});

describe("what does not fit", () => {
  const long = "line of code;\n".repeat(400);
  const turns = [
    turn("1", "first", "one", { blocks: [block("a.ts", long), block("b.ts", long)] }),
    turn("2", "second", "two", { blocks: [block("c.ts", long)] }),
    turn("3", "third", "", { blocks: [block("d.ts", "short")] }),
  ];
  const size = (some: readonly KeptTurn[]): number => sizeOf(messagesOf(some, WISHES), tokens);

  it("changes nothing as long as it fits", () => {
    const fitted = fitPrompt(turns, WISHES, 100_000, tokens);
    expect(fitted).toEqual({ turns, left: [], tooLong: false });
  });

  it("loses the oldest context first, and says which", () => {
    const limit = size(turns) - 100;
    const fitted = fitPrompt(turns, WISHES, limit, tokens);
    expect(fitted.left).toEqual(["a.ts"]);
    expect(fitted.tooLong).toBe(false);
    expect(size(fitted.turns)).toBeLessThanOrEqual(limit);
  });

  it("stays cut, so that the next turns begin with the same bytes", () => {
    const limit = size(turns) - 100;
    const fitted = fitPrompt(turns, WISHES, limit, tokens).turns;
    const before = messagesOf(fitted, WISHES);
    const next = [...fitted.slice(0, 2), { ...(fitted[2] as KeptTurn), answer: "three" }, turn("4", "fourth", "")];
    const after = fitPrompt(next, WISHES, limit, tokens);
    expect(after.left).toEqual([]);
    expect(JSON.stringify(messagesOf(after.turns, WISHES).slice(0, before.length))).toBe(JSON.stringify(before));
  });

  it("then loses the oldest questions", () => {
    const many = Array.from({ length: 40 }, (_, at) =>
      turn(`t${at}`, `q${at} ${"word ".repeat(60)}`, "a ".repeat(100)),
    );
    const fitted = fitPrompt([...many, turn("last", "now", "")], WISHES, 2_000, tokens);
    expect(fitted.left).toHaveLength(1);
    expect(fitted.left[0]).toMatch(/^the \d+ oldest questions$/);
    expect(textOf(messagesOf(fitted.turns, WISHES)[1]?.content ?? "")).toMatch(/^\(Earlier parts/);
    expect(size(fitted.turns)).toBeLessThanOrEqual(2_000);
    expect(messagesOf(fitted.turns, WISHES).at(-1)?.content).toMatch(/now$/);
  });

  it("then cuts the end of the last question's largest block", () => {
    const last = [turn("1", "why", "", { blocks: [block("big.ts", long.repeat(4)), block("small.ts", "x = 1")] })];
    const fitted = fitPrompt(last, WISHES, 2_000, tokens);
    expect(fitted.left).toEqual(["the end of big.ts"]);
    const text = textOf(messagesOf(fitted.turns, WISHES).at(-1)?.content ?? "");
    expect(text).toMatch(/only its first \d+ lines/);
    expect(text).toContain("x = 1");
    expect(size(fitted.turns)).toBeLessThanOrEqual(2_000);
  });

  it("drops a block of which nothing useful would be left, even one long line", () => {
    const one = [turn("1", "why", "", { blocks: [block("min.js", "x".repeat(9_000))] })];
    expect(fitPrompt(one, WISHES, 1_500, tokens).left).toEqual(["the end of min.js"]);
    const bare = size([turn("1", "why", "")]);
    expect(fitPrompt(one, WISHES, bare + 60, tokens).left).toEqual(["min.js"]);
  });

  it("is too long when the question alone is", () => {
    expect(fitPrompt([turn("1", "word ".repeat(5_000), "")], WISHES, 1_000, tokens).tooLong).toBe(true);
  });

  it("never exceeds the limit, whatever the conversation", () => {
    for (let seed = 1; seed <= 40; seed++) {
      const some = conversation(seed, 8);
      const limit = 600 + seed * 10;
      const fitted = fitPrompt(some, WISHES, limit, tokens);
      if (!fitted.tooLong) expect(size(fitted.turns)).toBeLessThanOrEqual(limit);
      if (size(some) > limit) expect(fitted.left.length > 0 || fitted.tooLong).toBe(true);
    }
  });
});
