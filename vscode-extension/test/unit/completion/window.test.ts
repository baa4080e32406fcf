import { describe, expect, test } from "vitest";
import { type Anchor, LIMITS, type Source, type Window, windowAt } from "../../../src/context/window";
import { sourceOf } from "./desk";

/** Half of a character. */
const LONE = /\p{Surrogate}/u;

/** A document of so many lines, each telling its number. */
function lines(count: number, width = 20): Source {
  return { lineCount: count, line: (index) => `line ${index} `.padEnd(width, ".") };
}

/** Repeatable chance. */
function chance(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >>> 8) % below;
  };
}

function firstLine(window: Window): string {
  return window.prefix.slice(0, window.prefix.indexOf("\n"));
}

describe("the window", () => {
  test("holds all of a short document", () => {
    const window = windowAt(sourceOf("a\nbc\nd"), 1, 1);
    expect(window).toMatchObject({ prefix: "a\nb", suffix: "c\nd", anchor: { line: 0, column: 0, below: 0 } });
  });

  test("of an empty document is empty", () => {
    expect(windowAt(sourceOf(""), 0, 0)).toMatchObject({ prefix: "", suffix: "" });
  });

  test("has one kind of line ends, whatever the document has", () => {
    const texts = ["a\nb\nc", "a\r\nb\r\nc", "a\rb\rc"].map((text) => windowAt(sourceOf(text), 1, 1));
    expect(new Set(texts.map((window) => window.prefix + window.suffix))).toEqual(new Set(["a\nb\nc"]));
  });

  test("begins at a multiple of 64 lines and keeps to its limits, wherever the cursor jumps", () => {
    const random = chance(7);
    const source = lines(3_000);
    let anchor: Anchor | undefined;
    for (let round = 0; round < 500; round++) {
      const line = random(3_000);
      const window = windowAt(source, line, random(20), anchor);
      anchor = window.anchor;
      expect(anchor.line % 64).toBe(0);
      expect(window.prefix.split("\n").length).toBeLessThanOrEqual(256 + 64);
      expect(window.prefix.length).toBeLessThanOrEqual(LIMITS.prefixChars);
      expect(window.suffix.length).toBeLessThanOrEqual(LIMITS.suffixChars);
      expect(window.suffix.split("\n").length).toBeLessThanOrEqual(129);
      if (line > 260) expect(window.prefix.split("\n").length).toBeGreaterThan(192);
      if (line < 2_900) expect(window.suffix.split("\n").length).toBeGreaterThan(64);
    }
  });

  test("typing on a line never changes its beginning nor its end", () => {
    const random = chance(3);
    for (let round = 0; round < 50; round++) {
      const above = random(2_000);
      const below = random(400);
      const width = 5 + random(100);
      let own = "";
      const source: Source = {
        lineCount: above + 1 + below,
        line: (index) => (index === above ? own : `${index} `.padEnd(width, "x")),
      };
      let window = windowAt(source, above, 0);
      const begin = firstLine(window);
      const { suffix } = window;
      for (let typed = 0; typed < 80; typed++) {
        own += "é";
        window = windowAt(source, above, own.length, window.anchor);
        if (above > 0) expect(firstLine(window)).toBe(begin);
        expect(window.suffix).toBe(suffix);
      }
    }
  });

  test("new lines move its beginning once in 64 of them at most, and its end never", () => {
    const source = (extra: number): Source => ({
      lineCount: 1_500 + extra,
      line: (index) => (index < 1_000 ? `above ${index}` : index < 1_000 + extra ? "new" : `below ${index - extra}`),
    });
    let window = windowAt(source(0), 999, 3);
    const { suffix } = windowAt(source(1), 1_000, 3, window.anchor);
    let moves = 0;
    for (let extra = 1; extra <= 400; extra++) {
      const next = windowAt(source(extra), 999 + extra, 3, window.anchor);
      if (next.anchor.line !== window.anchor.line) moves += 1;
      expect(next.suffix).toBe(suffix);
      window = next;
    }
    expect(moves).toBeLessThanOrEqual(Math.ceil(400 / 64) + 1);
  });

  test("a cursor that goes to and fro over any place does not move it to and fro", () => {
    const source = lines(2_000, 30);
    for (let place = 200; place < 600; place += 7) {
      let window = windowAt(source, place, 0);
      for (let there = place; there < place + 31; there++) window = windowAt(source, there, 0, window.anchor);
      const settled = window.anchor;
      for (let round = 0; round < 4; round++) {
        for (const line of [place + 30, place + 15, place, place + 15]) {
          window = windowAt(source, line, 0, window.anchor);
          expect(window.anchor).toEqual(settled);
        }
      }
    }
  });
});

describe("long lines", () => {
  test("make it shorter, never longer than its limits, and still rest while somebody types", () => {
    const source = (own: string): Source => ({
      lineCount: 400,
      line: (index) => (index === 200 ? own : "y".repeat(300)),
    });
    let window = windowAt(source(""), 200, 0);
    expect(window.anchor.line % 64).toBe(0);
    const begin = window.anchor;
    for (let typed = 1; typed < 200; typed++) {
      window = windowAt(source("z".repeat(typed)), 200, typed, window.anchor);
      expect(window.anchor).toEqual(begin);
      expect(window.prefix.length).toBeLessThanOrEqual(LIMITS.prefixChars);
    }
  });

  test("a file of one line is cut in quarters of the limit, before and behind the cursor", () => {
    const text = "abcdefghij".repeat(20_000);
    const window = windowAt(sourceOf(text), 0, 100_000);
    expect(window.prefix.length).toBeLessThanOrEqual(LIMITS.prefixChars);
    expect(window.prefix.length).toBeGreaterThan(LIMITS.prefixChars / 4);
    expect(window.suffix).toHaveLength(LIMITS.suffixChars);
    expect(window.anchor.column % (LIMITS.prefixChars / 4)).toBe(0);
    const next = windowAt(sourceOf(text), 0, 100_050, window.anchor);
    expect(next.anchor.column).toBe(window.anchor.column);
    expect(next.prefix.startsWith(window.prefix)).toBe(true);
  });

  test("characters of two units are never split", () => {
    for (const shift of ["", "x"]) {
      const text = shift + "😀".repeat(60_000);
      for (const at of [20_001, 40_003, 70_000, 99_999]) {
        const cursor = shift.length + (at - (at % 2));
        const window = windowAt(sourceOf(text), 0, cursor);
        for (const part of [window.prefix, window.suffix]) expect(part).not.toMatch(LONE);
        const kept = windowAt(sourceOf(`y${text}`), 0, cursor + 1, window.anchor);
        expect(kept.prefix).not.toMatch(LONE);
      }
    }
  });

  test("an old place in a document that has become another one is given up", () => {
    const window = windowAt(lines(2_000), 1_500, 0);
    const after = windowAt(lines(10), 3, 0, window.anchor);
    expect(after.prefix.split("\n")).toHaveLength(4);
    expect(after.suffix.split("\n")).toHaveLength(7);
  });
});
