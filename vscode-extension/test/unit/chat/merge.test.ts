import { describe, expect, it } from "vitest";
import { declaredIn, extentOf, findDeclaration, nameIn } from "../../../src/features/chat/declarations";
import { merge } from "../../../src/features/chat/merge";

const TS = `import { a } from "./a";

/** Adds. */
export function add(one: number, two: number): number {
  return one + two;
}

export class Counter {
  #count = 0;

  next(): number {
    this.#count += 1;
    return this.#count;
  }

  reset(): void {
    this.#count = 0;
  }
}

export const LIMIT = 10;
`;

const PY = `import os


def first(a):
    return a


class Thing:
    def run(self):
        """Runs."""
        return 1

    def stop(self):
        return 2


def last(
    a,
    b,
):
    return a + b
`;

function text(current: string, code: string, selected?: Parameters<typeof merge>[2]): string {
  const merged = merge(current, code, selected);
  if (merged.kind !== "merged") throw new Error(`${merged.kind}: ${"why" in merged ? merged.why : ""}`);
  return merged.text;
}

describe("the whole file", () => {
  it("is taken where the block has most of its lines", () => {
    const changed = TS.replace("one + two", "two + one");
    expect(merge(TS, changed)).toEqual({ kind: "merged", text: changed, why: "the whole file" });
  });

  it("is what an empty file becomes", () => {
    expect(text("", "let a;")).toBe("let a;\n");
    expect(text("\n", "let a;\n\n")).toBe("let a;\n");
  });

  it("may be the same already", () => {
    expect(merge(TS, TS)).toEqual({ kind: "same" });
    expect(merge(TS, TS.trimEnd())).toEqual({ kind: "same" });
  });

  it("keeps its line endings", () => {
    const crlf = TS.replaceAll("\n", "\r\n");
    const merged = text(crlf, "export const LIMIT = 20;");
    expect(merged).toBe(crlf.replace("LIMIT = 10", "LIMIT = 20"));
  });
});

describe("a declaration", () => {
  it("takes the place of the one of its name", () => {
    const code = "export function add(one: number, two: number): number {\n  const sum = one + two;\n  return sum;\n}";
    expect(text(TS, code)).toBe(TS.replace("  return one + two;", "  const sum = one + two;\n  return sum;"));
  });

  it("keeps the comment above, unless the block has one", () => {
    expect(text(TS, "export function add(): number {\n  return 0;\n}")).toContain(
      "/** Adds. */\nexport function add(): number {",
    );
    const own = text(TS, "/** Zero. */\nexport function add(): number {\n  return 0;\n}");
    expect(own).toContain("/** Zero. */\nexport function add()");
    expect(own).not.toContain("Adds.");
  });

  it("gets the indentation of its place", () => {
    const merged = text(PY, "def stop(self):\n    return 3");
    expect(merged).toBe(PY.replace("return 2", "return 3"));
  });

  it("ends where it ends, whatever its first lines look like", () => {
    expect(text(PY, "def last(a):\n    return a")).toBe(
      PY.slice(0, PY.indexOf("def last(")).concat("def last(a):\n    return a\n"),
    );
  });

  it("may be several, and a new one follows the one before it", () => {
    const merged = text(PY, "def first(a):\n    return -a\n\n\ndef second(a):\n    return 2 * a\n");
    expect(merged).toContain("def first(a):\n    return -a\n\n\ndef second(a):\n    return 2 * a\n\n\nclass Thing:");
  });

  it("is not guessed where there are two of its name, or none", () => {
    const two =
      "class A:\n    def run(self):\n        return 1\n\nclass B:\n    def run(self):\n        return 2\n\nx = [1, 2, 3]\n";
    expect(merge(two, "def run(self):\n    return 3").kind).toBe("unsure");
    expect(merge(PY, "def other():\n    return 3").kind).toBe("unsure");
  });
});

describe("marks", () => {
  it("stand for what stays", () => {
    const code =
      "export class Counter {\n  #count = 0;\n\n  // ... existing code ...\n\n  reset(): void {\n    this.#count = -1;\n  }\n}";
    expect(text(TS, code)).toBe(
      TS.replace("  reset(): void {\n    this.#count = 0;", "  reset(): void {\n    this.#count = -1;"),
    );
  });

  it("may stand at the beginning and at the end", () => {
    const code =
      "# ... existing code ...\n\nclass Thing:\n    def run(self):\n        return 10\n\n# ... rest of the file ...";
    const merged = text(PY, code);
    expect(merged).toContain("return 10");
    expect(merged).toContain("def first(a)");
    expect(merged).toContain("def last(");
  });

  it("are not followed where a part has no place", () => {
    expect(merge(TS, "// ... existing code ...\nnothing.of(this);\n// ... existing code ...").kind).toBe("unsure");
  });
});

describe("lines", () => {
  it("between two that stand once are replaced", () => {
    const file = "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\nf = 6\ng = 7\nh = 8\n";
    expect(text(file, "b = 2\nnew()\nd = 4")).toBe("a = 1\nb = 2\nnew()\nd = 4\ne = 5\nf = 6\ng = 7\nh = 8\n");
  });

  it("that were selected are replaced, also when they have moved", () => {
    const file = `// one more line\n${TS}`;
    const selected = { from: 5, to: 5, text: "  return one + two;" };
    expect(text(file, "return two + one;", selected)).toBe(file.replace("one + two;", "two + one;"));
    expect(merge(file, "return two + one;", { from: 1, to: 1, text: "is gone" }).kind).toBe("unsure");
  });

  it("of which nothing is in the file are not placed", () => {
    expect(merge(TS, "console.log(1)")).toMatchObject({ kind: "unsure" });
    expect(merge(TS, "  \n")).toMatchObject({ kind: "unsure", why: "the block is empty" });
  });
});

describe("declarations", () => {
  it.each([
    ["export async function load(x) {", "load"],
    ["export default class Page extends Base {", "Page"],
    ["  private readonly run = async () => {", undefined],
    ["const parse = (text: string): number => {", "parse"],
    ["  async next(): Promise<void> {", "next"],
    ["def run(self):", "run"],
    ["    async def run(self):", "run"],
    ["pub(crate) fn read<'a>(x: &'a str) -> u8 {", "read"],
    ["func (s *Server) Serve(l net.Listener) error {", "Serve"],
    ["public static void main(String[] args) {", "main"],
    ["type Name = string;", "Name"],
    ['RATES: dict[str, int] = {"a": 1}', "RATES"],
    ["RATES == 3", undefined],
    ["total = 3", undefined],
    ["if (a) {", undefined],
    ["return call(x) {", undefined],
    ["for (const a of b) {", undefined],
  ])("%s declares %s", (line, name) => {
    expect(nameIn(line)).toBe(name);
  });

  it("come with the constants, the imports and the new ones beside them", () => {
    const file =
      'from a import b\n\nRATES = {"x": 1}\n\n\ndef tax(net):\n    return net * RATES["x"]\n\n\ndef last():\n    pass\n';
    const code =
      'from a import b\n\nRATES = {"x": 1, "y": 2}\n\n\ndef first():\n    return 1\n\n\ndef tax(net):\n    return net\n\n\ndef rounded():\n    return 2\n';
    expect(merge(file, code)).toEqual({
      kind: "merged",
      why: "RATES, tax",
      text: `${code}\n\ndef last():\n    pass\n`,
    });
    const before = "def first():\n    return 1\n\n\ndef last():\n    return 3\n";
    expect(merge(file, before)).toMatchObject({
      text: file.replace("def last():\n    pass\n", before),
    });
    expect(merge(file, `import new\n\n\n${before}`)).toMatchObject({ kind: "unsure" });
  });

  it("are found by name, the outer one of several", () => {
    const lines = TS.split("\n");
    expect(findDeclaration(lines, "next")).toBe(10);
    expect(findDeclaration(lines, "nothing")).toBeUndefined();
    expect(extentOf(lines, 3)).toEqual({ leading: 2, from: 3, to: 6 });
    expect(declaredIn(lines)).toEqual(["add", "Counter", "LIMIT"]);
  });

  it("with a signature over several lines end at their last", () => {
    const lines = "function a(\n  one: number,\n): number {\n  return one;\n}\nfunction b() {}".split("\n");
    expect(extentOf(lines, 0).to).toBe(5);
    expect(extentOf(PY.split("\n"), PY.split("\n").indexOf("def last(")).to).toBe(PY.split("\n").length - 1);
  });
});
