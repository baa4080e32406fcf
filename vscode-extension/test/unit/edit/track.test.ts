import { describe, expect, it } from "vitest";
import { compare, keptRows, type Row, textOf } from "../../../src/features/edit/diff";
import { planEdits, type TextChange } from "../../../src/features/edit/plan";
import { type Region, track } from "../../../src/features/edit/track";
import { changed } from "./fakeEditor";
import { mutated, randomLines, randomness } from "./random";

const ROWS = compare(["a", "b", "c"], ["a", "B", "c"]); // a, -b, +B, c
const BEFORE = ["0", "1"];
const AFTER = ["8", "9"];

function typed(...changes: TextChange[]): Region & { inside: boolean; shown: string } {
  const text = [...BEFORE, ...textOf(ROWS), ...AFTER].join("\n");
  const now = changed(text, changes, "\n").split("\n");
  const result = track({ start: 2, rows: ROWS }, changes.toReversed(), () => now);
  return { ...result, shown: signs(result.rows) };
}

const signs = (rows: readonly Row[]) =>
  rows.map((row) => ({ kept: " ", old: "-", new: "+" })[row.kind] + row.text).join("|");

const change = (
  startLine: number,
  startCharacter: number,
  endLine: number,
  endCharacter: number,
  text: string,
): TextChange => ({ startLine, startCharacter, endLine, endCharacter, text });

const UNTOUCHED = " a|-b|+B| c";

describe("a change outside the lines", () => {
  it.each([
    ["a line above", change(0, 0, 0, 0, "x\n"), 3],
    ["a line just above", change(2, 0, 2, 0, "x\n"), 3],
    ["Enter at the end of the line above", change(1, 1, 1, 1, "\n  "), 3],
    ["a line above goes", change(0, 0, 1, 0, ""), 1],
    ["letters above", change(1, 0, 1, 1, "xyz"), 2],
    ["a line just below", change(6, 0, 6, 0, "x\n"), 2],
    ["Enter at the end of the last line", change(5, 1, 5, 1, "\nx"), 2],
    ["letters below", change(7, 1, 7, 1, "x"), 2],
  ])("%s", (_, one, start) => {
    expect(typed(one)).toMatchObject({ start, inside: false, shown: UNTOUCHED });
  });
});

describe("a change inside the lines", () => {
  it.each([
    ["letters in a new line: it stays new", change(4, 1, 4, 1, "!"), " a|-b|+B!| c"],
    ["a new line is parted: both are new", change(4, 1, 4, 1, "\n  x"), " a|-b|+B|+  x| c"],
    ["letters in an old line: it is kept", change(3, 1, 3, 1, "!"), " a| b!|+B| c"],
    ["an old line goes", change(3, 0, 4, 0, ""), " a|+B| c"],
    ["a line between old and new ones is new", change(4, 0, 4, 0, "x\n"), " a|-b|+x|+B| c"],
    ["letters in a kept line", change(2, 0, 2, 0, "!"), " !a|-b|+B| c"],
    ["lines of several kinds become kept", change(3, 0, 4, 1, "z"), " a| z| c"],
    ["a line under a kept one is kept", change(2, 1, 2, 1, "\nx"), " a| x|-b|+B| c"],
  ])("%s", (_, one, shown) => {
    expect(typed(one)).toMatchObject({ start: 2, inside: true, shown });
  });

  it("that reaches beyond takes the lines outside along", () => {
    expect(typed(change(1, 0, 2, 1, "z"))).toMatchObject({ start: 1, inside: true, shown: " z|-b|+B| c" });
    expect(typed(change(5, 0, 6, 1, "z"))).toMatchObject({ start: 2, inside: true, shown: " a|-b|+B| z" });
  });

  it("may come with others in one event", () => {
    expect(typed(change(0, 0, 0, 0, "x\n"), change(4, 0, 4, 0, "!"))).toMatchObject({
      start: 3,
      inside: true,
      shown: " a|-b|+!B| c",
    });
  });
});

describe("planned edits", () => {
  it("turn the document into what is wanted, wherever the part is, with few changes", () => {
    for (let seed = 0; seed < 400; seed++) {
      const random = randomness(seed);
      const eol = seed % 2 === 0 ? "\n" : "\r\n";
      const [head, part, tail] = [randomLines(random, 3), randomLines(random, 12), randomLines(random, 3)];
      const document = [...head, ...part, ...tail];
      if (document.length === 0) continue;
      const wanted = mutated(part, random);
      const edits = planEdits(document, head.length, part.length, wanted, eol);
      const result = [...head, ...wanted, ...tail].join(eol);
      expect(changed(document.join(eol), edits, eol)).toBe(result);
    }
  });

  it("are none when nothing changes, and leave lines between alone", () => {
    expect(planEdits(["a", "b"], 0, 2, ["a", "b"], "\n")).toEqual([]);
    expect(planEdits(["a", "b", "c", "d"], 0, 4, ["A", "b", "c", "D"], "\n")).toEqual([
      change(0, 0, 1, 0, "A\n"),
      change(2, 1, 3, 1, "\nD"),
    ]);
  });

  it("keep the hold on the part: tracking our own edits leads to the wanted lines", () => {
    for (let seed = 0; seed < 200; seed++) {
      const random = randomness(seed);
      const document = ["top", ...randomLines(random, 10), "bottom"];
      const part = document.slice(1, -1);
      const wanted = mutated(part, random);
      if (wanted.length === 0 || part.length === 0) continue;
      const edits = planEdits(document, 1, part.length, wanted, "\n");
      const now = changed(document.join("\n"), edits, "\n").split("\n");
      const tracked = track({ start: 1, rows: keptRows(part) }, edits.toReversed(), () => now);
      if (tracked.rows.length === wanted.length) expect(textOf(tracked.rows)).toEqual(wanted);
    }
  });
});
