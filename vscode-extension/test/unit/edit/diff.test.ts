import { describe, expect, it } from "vitest";
import {
  accept,
  blockAt,
  blocksOf,
  compare,
  type Row,
  reject,
  textOf,
  withoutNew,
  withoutOld,
} from "../../../src/features/edit/diff";
import { mutated, randomLines, randomness } from "./random";

const shown = (rows: readonly Row[]) =>
  rows.map((row) => ({ kept: " ", old: "-", new: "+" })[row.kind] + row.text).join("\n");

describe("compare", () => {
  it("gives the old text without the new rows and the new text without the old ones", () => {
    for (let seed = 0; seed < 400; seed++) {
      const random = randomness(seed);
      const before = randomLines(random, 25);
      const after = seed % 3 === 0 ? randomLines(random, 25) : mutated(before, random);
      const rows = compare(before, after);
      expect(withoutNew(rows)).toEqual(before);
      expect(withoutOld(rows)).toEqual(after);
      expect(textOf(accept(rows))).toEqual(after);
      expect(textOf(reject(rows))).toEqual(before);
    }
  });

  it("has the old rows of a block in front of its new ones, and at least one kept row between two blocks", () => {
    for (let seed = 0; seed < 200; seed++) {
      const random = randomness(seed);
      const before = randomLines(random, 20);
      const rows = compare(before, mutated(before, random));
      const blocks = blocksOf(rows);
      expect(new Set(blocks.map((block) => block.id)).size).toBe(blocks.length);
      for (const [at, block] of blocks.entries()) {
        const kinds = rows.slice(block.first, block.last + 1).map((row) => row.kind);
        expect(kinds).toEqual([...Array(block.old).fill("old"), ...Array(block.new).fill("new")]);
        expect(block.first).toBeGreaterThan(at === 0 ? -1 : (blocks[at - 1]?.last ?? 0) + 1);
      }
    }
  });

  it("comes to the same text whatever the order of decisions is", () => {
    for (let seed = 0; seed < 200; seed++) {
      const random = randomness(seed);
      const before = randomLines(random, 20);
      const rows = compare(before, mutated(before, random));
      const verdicts = blocksOf(rows).map((block) => ({ id: block.id, accept: random() < 0.5 }));
      const taken = new Set(verdicts.filter((one) => one.accept).map((one) => one.id));
      const wanted = rows
        .filter((row) => row.kind === "kept" || (row.kind === "new") === taken.has(row.block))
        .map((row) => row.text);
      const decide = (now: readonly Row[], one: { id: number; accept: boolean }) =>
        one.accept ? accept(now, one.id) : reject(now, one.id);
      expect(textOf(verdicts.reduce(decide, rows))).toEqual(wanted);
      expect(textOf(verdicts.toReversed().reduce(decide, rows))).toEqual(wanted);
      expect(blocksOf(verdicts.reduce(decide, rows))).toEqual([]);
    }
  });

  it("numbers a block by the old lines above it, so that the number lasts while more comes below", () => {
    const before = ["a", "b", "c", "d", "e"];
    expect(blocksOf(compare(before, ["a", "B", "c", "d", "e"])).map((block) => block.id)).toEqual([1]);
    expect(blocksOf(compare(before, ["a", "B", "B2", "c", "D", "e"])).map((block) => block.id)).toEqual([1, 3]);
  });

  it("does not part two changes at a lonely bracket", () => {
    const rows = compare(["one();", "}", "two();"], ["uno();", "}", "due();"]);
    expect(shown(rows)).toBe("-one();\n-}\n-two();\n+uno();\n+}\n+due();");
  });

  it("holds on to lines that both have once", () => {
    const rows = compare(["a {", "}", "b {", "}"], ["x {", "}", "a {", "}", "y {", "}", "b {", "}"]);
    expect(shown(rows)).toBe("+x {\n+}\n a {\n }\n+y {\n+}\n b {\n }");
  });

  it("lets an inserted function begin at its comment and not in the middle of it", () => {
    const before = ["/** a */", "a() {", "}", "", "/**", " * c", " */", "c() {", "}"];
    const after = [
      "/** a */",
      "a() {",
      "}",
      "",
      "/**",
      " * b",
      " */",
      "b() {",
      "}",
      "",
      "/**",
      " * c",
      " */",
      "c() {",
      "}",
    ];
    expect(shown(compare(before, after))).toBe(
      " /** a */\n a() {\n }\n \n+/**\n+ * b\n+ */\n+b() {\n+}\n+\n /**\n  * c\n  */\n c() {\n }",
    );
  });

  it("gives up on one block where everything differs, in little time", () => {
    const before = Array.from({ length: 3000 }, (_, at) => `old ${at % 900}`);
    const after = Array.from({ length: 3000 }, (_, at) => `new ${at % 900}`);
    const began = performance.now();
    expect(blocksOf(compare(before, after))).toHaveLength(1);
    expect(performance.now() - began).toBeLessThan(2000);
  });
});

describe("blockAt", () => {
  it("is the block at a row, else the next, else the last", () => {
    const rows = compare(["a", "b", "c", "d", "e"], ["a", "B", "c", "D", "e"]);
    expect([0, 1, 2, 3, 4, 5, 6].map((row) => blockAt(rows, row)?.id)).toEqual([1, 1, 1, 3, 3, 3, 3]);
    expect(blockAt(compare(["a"], ["a"]), 0)).toBeUndefined();
  });
});
