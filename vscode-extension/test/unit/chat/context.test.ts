import { describe, expect, it } from "vitest";
import { folderText, head, inOrder, tree } from "../../../src/context/folder";
import { lastLines, plain, Terminals } from "../../../src/context/terminal";
import { contextTokens, TokenEstimate, weight } from "../../../src/context/tokens";

describe("the estimate of tokens", () => {
  it("begins with 3.5 characters a token", () => {
    expect(new TokenEstimate().text("m", "x".repeat(35))).toBe(10);
  });

  it("follows what the server counted, for this model only", () => {
    const estimate = new TokenEstimate();
    estimate.learn("m", 10_000, 2, 2_016);
    expect(estimate.ratio("m")).toBeCloseTo(5);
    expect(estimate.ratio("other")).toBe(3.5);
    estimate.learn("m", 10_000, 2, 2_516);
    expect(estimate.ratio("m")).toBeCloseTo(4.5);
  });

  it("learns nothing from a short prompt or from a count that makes no sense", () => {
    const estimate = new TokenEstimate();
    estimate.learn("m", 100, 1, 60);
    estimate.learn("m", 10_000, 1, 0);
    expect(estimate.ratio("m")).toBe(3.5);
    estimate.learn("m", 10_000, 1, 100_000);
    expect(estimate.ratio("m")).toBe(1);
  });

  it("counts a letter of a script without blanks as a token", () => {
    expect(weight("中文")).toBe(7);
    expect(new TokenEstimate().text("m", "日本語です")).toBe(5);
  });

  it("forgets the models of long ago", () => {
    const estimate = new TokenEstimate();
    for (let at = 0; at < 60; at++) estimate.learn(`m${at}`, 10_000, 1, 2_008);
    expect(estimate.ratio("m0")).toBe(3.5);
    expect(estimate.ratio("m59")).toBeCloseTo(5);
  });

  it.each([
    ["1234 tokens; warm", 1234],
    ["none; warming 40 %", 0],
    ["something new", undefined],
    [undefined, undefined],
  ])("the server's header %s means %s tokens of context", (header, tokens) => {
    expect(contextTokens(header)).toBe(tokens);
  });
});

describe("a folder", () => {
  const paths = ["src/deep/down/a.ts", "src/b.ts", "README.md", "src/index.ts"];

  it("puts readmes and entry points first, then what is less deep", () => {
    expect(inOrder(paths)).toEqual(["README.md", "src/index.ts", "src/b.ts", "src/deep/down/a.ts"]);
  });

  it("is drawn as a tree", () => {
    expect(tree(paths)).toBe(
      ["README.md", "src/", "  b.ts", "  deep/", "    down/", "      a.ts", "  index.ts"].join("\n"),
    );
  });

  it("counts what is too much to draw", () => {
    const many = Array.from({ length: 400 }, (_, at) => `f${at}.ts`);
    expect(tree(many)).toMatch(/… 100 more$/);
  });

  it("has the beginnings of its files, as long as they fit", async () => {
    const read = async (path: string) => (path === "src/b.ts" ? undefined : `text of ${path}\n`.repeat(60));
    const { text, heads } = await folderText(paths, read, 3_000);
    expect(text.length).toBeLessThanOrEqual(3_000);
    expect(text).toContain("--- README.md");
    expect(text).not.toContain("--- src/b.ts");
    expect(heads).toBeGreaterThan(0);
    const all = await folderText(paths, read, 100_000);
    expect(all.heads).toBe(3);
    expect(await folderText(paths, read, 100_000)).toEqual(all);
  });

  it("a head says that there is more", () => {
    expect(head("a\nb")).toBe("a\nb");
    expect(head("x\n".repeat(100))).toMatch(/\n…$/);
    expect(head("y".repeat(5_000))).toHaveLength(2_002);
  });
});

describe("the terminal", () => {
  it("keeps the last five commands, without escape sequences", () => {
    const terminals = new Terminals();
    for (let at = 0; at < 7; at++) {
      const watched = terminals.begin(`run ${at} `);
      watched.add(`\u001b]633;C\u0007\u001b[31mred ${at}\u001b[0m\r\n`);
      watched.end(at % 2);
    }
    expect(terminals.all().map(({ command }) => command)).toEqual(["run 6", "run 5", "run 4", "run 3", "run 2"]);
    expect(terminals.all()[0]).toMatchObject({ output: "red 6", exitCode: 0 });
    expect(terminals.get(terminals.all()[1]?.number ?? 0)).toMatchObject({ command: "run 5", exitCode: 1 });
    expect(terminals.get(1)).toBeUndefined();
  });

  it("shows what a progress bar ended with", () => {
    expect(plain("10 %\r50 %\r100 %\r\ndone\b\b\b\bDONE")).toBe("100 %\nDONE");
  });

  it("drops titles, bells and device strings", () => {
    expect(plain("\u001b]0;title\u0007a\u001bP1;2q\u001b\\b\u0007\u001b(Bc")).toBe("abc");
  });

  it("keeps the last 200 lines and bounds what it holds", () => {
    expect(lastLines(Array.from({ length: 300 }, (_, at) => `line ${at}`).join("\n")).split("\n")).toHaveLength(201);
    expect(lastLines("short\n")).toBe("short");
    const terminals = new Terminals();
    const watched = terminals.begin("flood");
    for (let at = 0; at < 100; at++) watched.add("x".repeat(10_000));
    expect(terminals.all()[0]?.output.length).toBeLessThan(45_000);
  });
});
