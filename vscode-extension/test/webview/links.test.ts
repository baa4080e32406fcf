import { describe, expect, it } from "vitest";
import { fenceInfo, fileInCode, linkTarget } from "../../src/webview/chat/links";

describe("linkTarget", () => {
  it.each([
    ["https://example.org/a b", "https://example.org/a b"],
    ["HTTP://example.org", "HTTP://example.org"],
    ["src/a.ts", "src/a.ts"],
    ["./src/a%20b.ts#L12", "./src/a b.ts#L12"],
    ["/abs/a.py", "/abs/a.py"],
    ["C:\\code\\a.ts", "C:\\code\\a.ts"],
    ["C:%5Ccode%5Ca.ts", "C:\\code\\a.ts"],
    ["a.ts:12", "a.ts:12"],
    ["src/a.ts:12:3", "src/a.ts:12:3"],
    ["100%", "100%"],
  ])("opens %s", (href, target) => expect(linkTarget(href)).toBe(target));

  it.each([
    "",
    "  ",
    "#section",
    "?x",
    "//host/x",
    "\\\\host\\share",
    "javascript:alert(1)",
    "javascript:1",
    "vbscript:x",
    "data:text/html,x",
    "mailto:a@b.c",
    "file:///etc/passwd",
    "command:x",
    "vscode://x",
    "https:///x",
    "java\nscript:x",
    "a%00b",
    "x".repeat(3000),
  ])("refuses %j", (href) => expect(linkTarget(href)).toBeUndefined());
});

describe("fileInCode", () => {
  it("knows paths and places", () => {
    for (const code of ["src/a.ts", "a.ts:12", "lib/x/y.py:3-9", "@scope/pack/index.js"])
      expect(fileInCode(code)).toBe(code);
  });

  it("takes nothing else for one", () => {
    for (const code of ["a.ts", "a/b", "x = a/b.c", "https://a.b/c.d", "foo.bar()", "1.5", "x".repeat(400)]) {
      expect(fileInCode(code)).toBeUndefined();
    }
  });
});

describe("fenceInfo", () => {
  it.each([
    ["ts", "ts", undefined],
    ["TS", "ts", undefined],
    ["", "", undefined],
    ["ts src/a.ts", "ts", "src/a.ts"],
    ["ts:src/a.ts", "ts", "src/a.ts"],
    ["typescript:src/a.ts:3-9", "typescript", "src/a.ts"],
    ['python title="src/b.py"', "python", "src/b.py"],
    ["js {file=x.js}", "js", "x.js"],
    ["src/lib/a.rs", "rs", "src/lib/a.rs"],
    ["c++", "c++", undefined],
    ["{.python}", "python", undefined],
    ["js {1,3-5}", "js", undefined],
    ["bash Run this first", "bash", undefined],
  ])("reads %j", (info, language, path) => expect(fenceInfo(info)).toEqual({ language, path }));
});
