import { describe, expect, it } from "vitest";
import { compare, withoutNew } from "../../../src/features/edit/diff";
import { candidate, follow, startReach } from "../../../src/features/edit/reach";
import { mutated, randomLines, randomness } from "./random";

const BASE = ["def f(x):", "    if x:", "        return 1", "    return 2", "", "def g():", "    pass"];

function old(lines: readonly string[]): readonly string[] {
  return compare(BASE, candidate(follow(startReach(BASE), lines)))
    .filter((row) => row.kind === "old")
    .map((row) => row.text);
}

describe("the part that a streamed answer has not come to", () => {
  it("is not shown as deleted", () => {
    expect(old([])).toEqual([]);
    expect(old(["def f(x):"])).toEqual([]);
    expect(old(["def f(x):", '    """What it does."""'])).toEqual([]);
    expect(old(["def f(x):", '    """What it does."""', "", "    Args: x"])).toEqual([]);
  });

  it("ends where a changed line has come", () => {
    expect(old(["def f(x: int):"])).toEqual(["def f(x):"]);
    expect(old(["def f(x):", "    if x:", "        return 11"])).toEqual(["        return 1"]);
  });

  it("is taken as skipped once a line below it comes", () => {
    expect(old(["def f(x):", "    return 2"])).toEqual(["    if x:", "        return 1"]);
  });

  it("is not skipped for a blank line or a bracket that is everywhere", () => {
    const base = ["a = 1", "", "b = 2", "}"];
    for (const line of ["", "}"]) {
      const text = candidate(follow(startReach(base), ["new = 0", line]));
      expect(text).toEqual(["new = 0", line, ...base]);
    }
  });

  it("is all of the rest at every moment: what stands is what came and then lines of the base", () => {
    for (let seed = 0; seed < 150; seed++) {
      const random = randomness(seed);
      const base = randomLines(random, 20);
      const after = mutated(base, random);
      let reach = startReach(base);
      for (let count = 1; count <= after.length; count++) {
        reach = follow(reach, after.slice(0, count));
        const text = candidate(reach);
        expect(text.slice(0, count)).toEqual(after.slice(0, count));
        expect(base.slice(base.length - (text.length - count))).toEqual(text.slice(count));
        expect(withoutNew(compare(base, text))).toEqual(base);
      }
      expect(reach).toEqual(follow(startReach(base), after));
    }
  });

  it("begins anew when earlier lines were taken back", () => {
    const one = follow(startReach(BASE), ["prose", "more"]);
    expect(follow(one, ["def f(x):"])).toEqual(follow(startReach(BASE), ["def f(x):"]));
    expect(follow(one, ["prose", "more"])).toBe(one);
  });
});
