import { describe, expect, it } from "vitest";
import { idOf, parseMentions, pathAndLines, referenceOf, withoutCode } from "../../../src/context/mentions";

function one(text: string) {
  const found = parseMentions(text);
  expect(found).toHaveLength(1);
  return found[0];
}

describe("a typed mention", () => {
  it.each([
    ["@file src/a.ts explain", { kind: "file", argument: "src/a.ts", loose: true }],
    ["@file:src/a.ts explain", { kind: "file", argument: "src/a.ts", loose: false }],
    ['look at @file "my dir/a b.ts", please', { kind: "file", argument: "my dir/a b.ts", loose: false }],
    ["@file 'my dir/a.ts':3-9", { kind: "file", argument: "my dir/a.ts", lines: { from: 3, to: 9 } }],
    ["what does @file src/a.ts do?", { argument: "src/a.ts" }],
    ["(see @file:src/a.ts).", { argument: "src/a.ts" }],
    ["@file src/a.ts:12", { argument: "src/a.ts", lines: { from: 12, to: 12 } }],
    ["@file src/a.ts:20-12", { argument: "src/a.ts", lines: { from: 12, to: 20 } }],
    ["@file src/a.ts#L12-L40", { argument: "src/a.ts", lines: { from: 12, to: 40 } }],
    ["@file", { argument: "" }],
    ["@folder src/context", { kind: "folder", argument: "src/context" }],
    ["@symbol parseMentions", { kind: "symbol", argument: "parseMentions", loose: true }],
    ["fix @problems", { kind: "problems", argument: "" }],
    ["fix @problems:all", { kind: "problems", argument: "all" }],
    ["@terminal why?", { kind: "terminal", argument: "" }],
    ["@docs how do I stream", { kind: "docs", argument: "how", loose: true }],
    ['@docs:"Vue 3" how', { kind: "docs", argument: "Vue 3", loose: false }],
  ])("%s", (text, wanted) => {
    expect(one(text)).toMatchObject(wanted);
  });

  it("tells where it stands", () => {
    const text = "why is @file src/a.ts:3-4, slow";
    const found = one(text);
    expect(text.slice(found?.start, found?.end)).toBe("@file src/a.ts:3-4");
  });

  it.each([
    "write to me@file.org",
    "the decorator `@file x` is code",
    "```\n@selection\n```",
    "```\n@selection and no end",
    "@files are many",
    "@file-name",
    "a@selection",
  ])("is not in: %s", (text) => {
    expect(parseMentions(text)).toEqual([]);
  });

  it("may be one of several, of which at most 32 count", () => {
    expect(parseMentions("@file a.ts and @folder src and @selection").map((each) => each.kind)).toEqual([
      "file",
      "folder",
      "selection",
    ]);
    expect(parseMentions("@selection ".repeat(50))).toHaveLength(32);
  });

  it("two in a row are two", () => {
    expect(parseMentions("@file @selection").map(({ kind, argument }) => [kind, argument])).toEqual([
      ["file", ""],
      ["selection", ""],
    ]);
  });
});

it("code is blanked out, the rest stays in its place", () => {
  const text = "a `b @file` c\n```ts\n@selection\n```\nd";
  const prose = withoutCode(text);
  expect(prose).toHaveLength(text.length);
  expect(prose).not.toContain("@");
  expect(prose.indexOf("d")).toBe(text.lastIndexOf("d"));
});

it.each([
  ["a.ts", { path: "a.ts", lines: undefined }],
  ["a.ts:3", { path: "a.ts", lines: { from: 3, to: 3 } }],
  ["a.ts:3:7", { path: "a.ts", lines: { from: 3, to: 3 } }],
  ["a.ts#L3", { path: "a.ts", lines: { from: 3, to: 3 } }],
  ["a.ts#L3-9", { path: "a.ts", lines: { from: 3, to: 9 } }],
  ["a.ts:0", { path: "a.ts", lines: undefined }],
])("%s has path and lines", (text, wanted) => {
  expect(pathAndLines(text)).toEqual(wanted);
});

describe("an id", () => {
  it.each([
    { kind: "file", at: "file:///a%20b/c.ts" },
    { kind: "selection", at: "file:///c.ts", lines: { from: 3, to: 9 } },
    { kind: "symbol", at: "file:///c.ts", lines: { from: 3, to: 9 }, name: "operator <=> (x)" },
    { kind: "docs", at: "7", name: "Vue 3 Guide" },
    { kind: "problems", at: "*" },
  ] as const)("keeps all: $kind", (reference) => {
    expect(referenceOf(idOf(reference))).toEqual(reference);
  });

  it.each(["", "file", "file:", "tree:/x", "category:file", "?file:nope"])("%s is none of ours", (id) => {
    expect(referenceOf(id)).toBeUndefined();
  });
});
