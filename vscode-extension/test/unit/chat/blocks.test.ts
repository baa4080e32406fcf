import { describe, expect, it } from "vitest";
import { referenceOf } from "../../../src/context/mentions";
import {
  bounded,
  docsBlock,
  endingOf,
  fileBlock,
  folderBlock,
  type Problem,
  problemsBlock,
  terminalBlock,
} from "../../../src/features/chat/blocks";
import { Chips } from "../../../src/features/chat/chips";
import { alternating, limitsOf, nativeTurn, sentOf } from "../../../src/features/chat/native";
import { messagesOf } from "../../../src/features/chat/prompt";
import * as rows from "../../../src/features/chat/suggest";
import { block, surroundings, until } from "./made";

describe("a block", () => {
  const file = {
    id: "file:x",
    kind: "file",
    path: "src/a.ts",
    language: "typescript",
    text: "one\r\ntwo\r\nthree\r\n",
  } as const;

  it("of a file has its path and language", () => {
    expect(fileBlock(file)).toMatchObject({ title: "src/a.ts", language: "typescript", text: "one\ntwo\nthree\n" });
    expect(fileBlock({ ...file, language: "" }).language).toBe("ts");
  });

  it("of lines says which", () => {
    expect(fileBlock({ ...file, lines: { from: 2, to: 3 } })).toMatchObject({
      title: "src/a.ts:2-3",
      text: "two\nthree",
    });
    expect(fileBlock({ ...file, lines: { from: 2, to: 2 }, name: "run" }).title).toBe("src/a.ts:2 (run)");
  });

  it("is not made of nothing, or of what is no text", () => {
    expect(() => fileBlock({ ...file, text: " \n" })).toThrow("src/a.ts is empty.");
    expect(() => fileBlock({ ...file, lines: { from: 90, to: 91 } })).toThrow("nothing in these lines");
    expect(() => fileBlock({ ...file, text: "\0PNG" })).toThrow("no text");
  });

  it("that is too long ends at a line and says so", () => {
    expect(bounded("a\nb\nc", 3)).toEqual({ text: "a\nb".slice(0, 3), note: "only the first 2 of 3 lines" });
    expect(bounded("abcdef", 3)).toMatchObject({ text: "abc" });
    expect(bounded("abc", 3)).toEqual({ text: "abc" });
    expect(fileBlock({ ...file, text: "line\n".repeat(60_000) }).note).toMatch(/of 60001 lines/);
  });

  it("of problems has errors first, and at most 100", () => {
    const problem = (line: number, severity: Problem["severity"]): Problem => ({
      path: "a.ts",
      line,
      column: 3,
      severity,
      message: "It is\n  wrong",
      source: line === 1 ? "ts 2304" : "",
      code: line === 1 ? "  let a;" : undefined,
    });
    const { text, title } = problemsBlock("p", "a.ts", [problem(2, "warning"), problem(1, "error")]);
    expect(title).toBe("Problems in a.ts");
    expect(text).toBe("a.ts:1:3 error: It is wrong [ts 2304]\n    let a;\na.ts:2:3 warning: It is wrong");
    expect(
      problemsBlock(
        "p",
        "x",
        Array.from({ length: 120 }, (_, at) => problem(at, "hint")),
      ).note,
    ).toBe("only the first 100 of 120");
    expect(() => problemsBlock("p", "a.ts", [])).toThrow("There are no problems in a.ts.");
  });

  it("of the terminal has the command and how it ended", () => {
    expect(terminalBlock("t", { number: 1, command: "make", output: "no rule", exitCode: 2 })).toMatchObject({
      title: "Terminal, exit code 2",
      text: "$ make\nno rule",
    });
    expect(terminalBlock("t", { number: 1, command: "make", output: "", exitCode: 0 }).note).toContain("no output");
    expect(() => terminalBlock("t", { number: 1, command: "", output: "", exitCode: undefined })).toThrow(
      "printed nothing",
    );
  });

  it("of documentation numbers its pages, quotes them, and gives their addresses", () => {
    const hit = (url: string, text: string) => ({ source: "s", title: `T ${url}`, url, text, score: 1 });
    const made = docsBlock("d", "Vue", [hit("u1", "one\ntwo"), hit("u2", "x"), hit("u1", "more")]);
    expect(made.text).toBe("[1] T u1 (u1)\n> one\n> two\n\n[2] T u2 (u2)\n> x\n\n[1] T u1 (u1)\n> more");
    expect(made.sources).toEqual([
      { title: "[1] T u1", href: "u1" },
      { title: "[2] T u2", href: "u2" },
    ]);
    expect(() => docsBlock("d", "Vue", [])).toThrow("Vue has nothing about this question.");
  });

  it("of a folder says how much of it is there", () => {
    expect(folderBlock("f", "src", "a.ts", 0).title).toBe("Folder src (its files by name)");
    expect(folderBlock("f", "src", "a.ts", 3).title).toContain("beginnings of 3");
  });

  it.each([
    ["a/b.test.ts", "ts"],
    ["Makefile", ""],
    [".env", ""],
    ["a.d/b", ""],
  ])("%s ends in %j", (path, ending) => {
    expect(endingOf(path)).toBe(ending);
  });
});

describe("the rows of the popup", () => {
  it("are the kinds that begin with what is typed", () => {
    expect(rows.categoryRows("")).toHaveLength(7);
    expect(rows.categoryRows("F").map(({ insert }) => insert)).toEqual(["@file:", "@folder:"]);
    expect(rows.categoryRows("x")).toEqual([]);
    const only = rows.selectionRow("a.ts", "file:///a.ts", { from: 4, to: 5 });
    expect(rows.categoryRows("sel", only)).toEqual([{ ...only, label: "@selection", detail: only.label }]);
    expect(referenceOf(rows.categoryRows("file")[0]?.id ?? "")).toBeUndefined();
  });

  it("have ids that tell all", () => {
    const lines = { from: 3, to: 9 };
    expect(referenceOf(rows.fileRow("src/a.ts", "file:///w/src/a.ts").id)).toEqual({
      kind: "file",
      at: "file:///w/src/a.ts",
    });
    expect(rows.fileRow("src/a.ts", "u")).toMatchObject({ label: "a.ts", detail: "src/a.ts", insert: "a.ts" });
    expect(rows.folderRow("src/chat", "u")).toMatchObject({ label: "chat/", detail: "src/chat" });
    expect(rows.selectionRow("src/a.ts", "u", lines)).toMatchObject({
      label: "a.ts:3-9",
      detail: "src/a.ts:3-9",
      insert: "",
    });
    expect(referenceOf(rows.symbolRow("run", "Thing", "a.ts", "u", lines).id)).toEqual({
      kind: "symbol",
      at: "u",
      lines,
      name: "run",
    });
    expect(rows.symbolRow("run", "Thing", "a.ts", "u", lines).detail).toBe("Thing · a.ts:3");
    expect(referenceOf(rows.docsRow("a b", "Vue 3", "").id)).toEqual({ kind: "docs", at: "a%20b", name: "Vue 3" });
    expect(rows.problemsRow("All", "*", { errors: 1, warnings: 2 }).detail).toBe("1 errors, 2 warnings");
    expect(rows.problemsRow("All", "*", undefined).detail).toBe("All");
    expect(rows.terminalRow(3, "npm  test", 1)).toMatchObject({ label: "npm test", detail: "exit code 1" });
    expect(rows.terminalRow(3, "", 0)).toMatchObject({ label: "Last output", detail: "ended well" });
    expect(rows.terminalRow(3, "x", undefined).detail).toContain("running");
    expect(rows.terminalSelectionRow().kind).toBe("terminal");
    expect(rows.allDocsRow(3).detail).toBe("All 3 sources");
    expect(rows.allDocsRow(undefined).detail).toBe("All sources");
    expect(rows.mentionOf(rows.fileRow("a.ts", "u"))).toEqual({
      id: "file:u",
      kind: "file",
      label: "a.ts",
      detail: "a.ts",
    });
  });

  it("of folders are those of the files, the shallow ones first", () => {
    expect(rows.foldersOf(["a/b/c/d.ts", "a/e.ts", "f.ts", "g/h.ts"])).toEqual(["a", "g", "a/b", "a/b/c"]);
  });
});

describe("chips", () => {
  it("know their size when they were read, and forget what was taken away meanwhile", async () => {
    let changes = 0;
    const chips = new Chips(
      surroundings({ "a.ts": "x".repeat(35) }),
      (text) => text.length,
      () => changes++,
    );
    expect(chips.add("file:/a.ts")).toBe(true);
    expect(chips.add("file:/a.ts")).toBe(true);
    expect(chips.add("nothing")).toBe(false);
    expect(chips.all).toMatchObject([{ label: "a.ts" }]);
    await until(() => chips.all[0]?.tokens === 35);
    chips.add("docs:*");
    await until(() => chips.all[1]?.tokens === 0);
    chips.add("file:/gone.ts");
    chips.remove("file:/gone.ts");
    chips.clear();
    const after = changes;
    chips.clear();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(chips.all).toEqual([]);
    expect(changes).toBe(after);
  });

  it("are at most 24", () => {
    const chips = new Chips(
      surroundings({}),
      () => 0,
      () => {},
    );
    const added = Array.from({ length: 30 }, (_, at) => chips.add(`file:/${at}.ts`));
    expect(added.filter(Boolean)).toHaveLength(24);
  });
});

describe("the editor's own chat", () => {
  it("has messages that take turns", () => {
    const message = (role: "system" | "user" | "assistant", text: string, images: string[] = []) => ({
      role,
      text,
      images,
      calls: [],
      results: [],
    });
    expect(
      alternating([message("user", "a"), message("user", "b"), message("assistant", ""), message("assistant", "c")]),
    ).toEqual([
      { role: "user", content: "a\n\nb" },
      { role: "assistant", content: "c" },
    ]);
    expect(alternating([message("user", "", ["data:x"])])).toEqual([
      { role: "user", content: [{ type: "image_url", image_url: { url: "data:x" } }] },
    ]);
    expect(alternating([message("user", "see", ["data:x"])])[0]?.content).toHaveLength(2);
  });

  it("keeps with an answer what was sent, so that the next prompt begins with it", () => {
    const wishes = { instructions: "", vision: false };
    const first = messagesOf([nativeTurn("why", "", [block("a.ts", "x")])], wishes);
    const sent = sentOf({ question: first[1]?.content, answer: "so" });
    const second = messagesOf([nativeTurn(sent?.question ?? "", sent?.answer ?? ""), nativeTurn("and", "")], wishes);
    expect(second.slice(0, 2)).toEqual(first);
    expect(sentOf({ question: 1 })).toBeUndefined();
    expect(sentOf(null)).toBeUndefined();
  });

  it("is told limits that add up", () => {
    expect(limitsOf(8_192, 4_096)).toEqual({ input: 6_144, output: 2_048 });
    expect(limitsOf(undefined, 1_000)).toEqual({ input: 15_384, output: 1_000 });
  });
});
