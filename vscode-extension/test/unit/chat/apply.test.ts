import { describe, expect, it } from "vitest";
import { clean, fits, pathInComment, sentPaths, targetOf } from "../../../src/features/chat/apply";
import { commandOf, forCursor, smallestChange } from "../../../src/features/chat/insert";
import type { BlockPlace } from "../../../src/features/chat/protocol";

function place(code: string, values: Partial<BlockPlace> = {}): BlockPlace {
  return { turn: "1", block: 0, code, language: "ts", ...values };
}

const NOTHING = { answer: "", sent: [], active: undefined };

describe("the file of a block", () => {
  it("is the one that the fence names", () => {
    expect(targetOf(place("x", { path: "./src/a.ts" }), NOTHING)).toMatchObject({
      path: "src/a.ts",
      why: "the answer names it",
    });
  });

  it("is the one that was sent, where the answer names only its end", () => {
    const clues = { answer: "", sent: ["pkg/src/a.ts", "b.ts"], active: undefined };
    expect(targetOf(place("x", { path: "src/a.ts" }), clues)?.path).toBe("pkg/src/a.ts");
    expect(targetOf(place("x", { path: "a.ts" }), { ...clues, sent: ["x/a.ts", "y/a.ts"] })?.path).toBe("a.ts");
  });

  it.each(["Change `src/a.ts`:", "**src/a.ts**", "### src/a.ts", "File: src/a.ts", "- src/a.ts:", "In src/a.ts:"])(
    "is named above the block: %s",
    (line) => {
      const answer = `Some words.\n\n${line}\n\n\`\`\`ts\nlet a;\n\`\`\`\n`;
      expect(targetOf(place("let a;\n"), { ...NOTHING, answer })).toMatchObject({ path: "src/a.ts" });
    },
  );

  it("is that above this block, not above another", () => {
    const answer = "`a.ts`\n```ts\none\n```\n`b.ts`\n```ts\ntwo\n```\nThen:\n```ts\nthree\n```";
    expect(targetOf(place("two", { block: 1 }), { ...NOTHING, answer })?.path).toBe("b.ts");
    expect(targetOf(place("one", { block: 5 }), { ...NOTHING, answer })?.path).toBe("a.ts");
    expect(targetOf(place("three", { block: 2 }), { ...NOTHING, answer })).toBeUndefined();
  });

  it("is in a comment in the first line, which is no part of the code", () => {
    expect(targetOf(place("// src/a.ts\nlet a;"), NOTHING)).toEqual({
      path: "src/a.ts",
      why: "the code's first line names it",
      code: "let a;",
    });
    expect(targetOf(place("// a.ts\nlet a;", { path: "src/a.ts" }), NOTHING)).toMatchObject({
      path: "src/a.ts",
      code: "let a;",
    });
  });

  it("is the only fitting one that was sent", () => {
    const clues = { answer: "", sent: ["a.py", "b.ts"], active: "c.ts" };
    expect(targetOf(place("x"), clues)).toMatchObject({ path: "b.ts" });
    expect(targetOf(place("x", { language: "python" }), clues)).toMatchObject({ path: "a.py" });
  });

  it("is the active file where nothing else tells, if it fits", () => {
    expect(targetOf(place("x"), { ...NOTHING, active: "c.ts" })).toMatchObject({
      path: "c.ts",
      why: "the active file",
    });
    expect(targetOf(place("x", { language: "python" }), { ...NOTHING, active: "c.ts" })).toBeUndefined();
    expect(targetOf(place("x"), { answer: "", sent: ["a.ts", "b.ts"], active: "c.ts" })).toBeUndefined();
  });
});

it.each([
  ["src/a.ts", "src/a.ts"],
  ["./a.ts", "a.ts"],
  ["src\\a.ts", "src/a.ts"],
  ["src/../a.ts", "a.ts"],
  ["../a.ts", undefined],
  ["src/../../a.ts", undefined],
  ["/etc/passwd", undefined],
  ["C:\\a.ts", undefined],
  ["~/.ssh/config", undefined],
  ["", undefined],
  [undefined, undefined],
  ["src/", undefined],
  [".git/hooks/pre-commit", undefined],
  ["a\0b", undefined],
])("%j as a path inside the workspace is %j", (path, wanted) => {
  expect(clean(path)).toBe(wanted);
});

it.each([
  ["# src/a.py", "src/a.py"],
  ["<!-- index.html -->", "index.html"],
  ["/* src/a.css */", "src/a.css"],
  ["// filename: a.ts", "a.ts"],
  ["#!/usr/bin/env node.js", undefined],
  ["// see a.ts for more", undefined],
  ["let a;", undefined],
])("the first line %j names %j", (line, path) => {
  expect(pathInComment(`${line}\nrest`)).toBe(path);
});

it.each([
  ["a.ts", "typescript", true],
  ["a.tsx", "ts", true],
  ["a.py", "ts", false],
  ["a.ts", "", true],
  ["a.ts", "diff", false],
  ["a.zig", "zig", true],
  ["Makefile", "makefile", true],
  ["a.json", "python", false],
])("%s takes a block in %j: %s", (path, language, wanted) => {
  expect(fits(path, language)).toBe(wanted);
});

it("the paths that were sent come from the chips", () => {
  const chip = (kind: "file" | "selection" | "folder", detail: string) => ({ id: detail, kind, label: "", detail });
  expect(sentPaths([chip("selection", "src/a.ts:3-9"), chip("folder", "src"), chip("file", "b.ts")])).toEqual([
    "src/a.ts",
    "b.ts",
  ]);
});

describe("inserting at the cursor", () => {
  it("gives all lines the indentation of the cursor's line", () => {
    expect(forCursor("if (a) {\n  b();\n}\n", "    ")).toBe("if (a) {\n      b();\n    }");
    expect(forCursor("  a\n  b", "")).toBe("a\nb");
    expect(forCursor("a(\n  b)", "\tx = ")).toBe("a(\n\t  b)");
  });

  it("takes the prompt signs from shell examples, and the output", () => {
    expect(commandOf("$ npm test\nok\n$ npm run build\n")).toBe("npm test\nnpm run build");
    expect(commandOf("cd a && make\nmake install\n")).toBe("cd a && make\nmake install");
  });

  it("changes as little as it can", () => {
    for (const [before, after] of [
      ["abc", "abXc"],
      ["", "x"],
      ["x", ""],
      ["aaa", "aa"],
      ["a🙂b", "a🙃b"],
      ["a\r\nb", "a\r\nc\r\nb"],
      ["same", "same"],
    ] as const) {
      const { from, to, text } = smallestChange(before, after);
      expect(before.slice(0, from) + text + before.slice(to)).toBe(after);
      expect(text).not.toMatch(/^[\udc00-\udfff]|^\n/);
    }
    expect(smallestChange("one two three", "one 2 three")).toEqual({ from: 4, to: 7, text: "2" });
  });
});
