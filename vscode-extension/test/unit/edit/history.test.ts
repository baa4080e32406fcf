import { describe, expect, it } from "vitest";
import { choices } from "../../../src/features/edit/history";
import { expand, PRESETS } from "../../../src/features/edit/presets";
import { KEPT, LONGEST, matching, remember, restored } from "../../../src/features/history";

describe("the history of instructions", () => {
  it("has the newest first, each once, and is bounded", () => {
    let history: readonly string[] = [];
    for (let at = 0; at < KEPT + 5; at++) history = remember(history, `do ${at}`);
    history = remember(history, " do 30 ");
    expect(history).toHaveLength(KEPT);
    expect(history.slice(0, 2)).toEqual(["do 30", `do ${KEPT + 4}`]);
    expect(history.filter((one) => one === "do 30")).toHaveLength(1);
  });

  it("keeps neither nothing nor whole texts", () => {
    expect(remember(["a"], "  ")).toEqual(["a"]);
    expect(remember(["a"], "x".repeat(LONGEST + 1))).toEqual(["a"]);
  });

  it("is what was stored, whatever that was", () => {
    expect(restored(undefined)).toEqual([]);
    expect(restored({ a: 1 })).toEqual([]);
    expect(restored(["a", 3, "", "b"])).toEqual(["a", "b"]);
  });

  it("is searched by all words, in whatever order and case", () => {
    expect(matching(["Add types here", "add a test", "fix"], "types ADD")).toEqual(["Add types here"]);
  });
});

describe("the choices", () => {
  const kinds = (typed: string) => choices(["add a test", "sort\n it"], typed).map((one) => one.kind);

  it("are earlier instructions and presets when nothing is typed", () => {
    expect(kinds("")).toEqual(["earlier", "earlier", ...PRESETS.map(() => "preset")]);
    expect(choices(["sort\n it"], "")[0]?.label).toBe("sort ↵ it");
  });

  it("begin with what is typed, without its earlier self", () => {
    expect(kinds("add")).toEqual(["typed", "earlier"]);
    expect(kinds("add a test")).toEqual(["typed"]);
  });

  it("are presets by their beginning, so that Enter takes the whole name", () => {
    expect(choices([], "/f").map((one) => one.instruction)).toEqual(["/fix"]);
    expect(kinds("/fix it")).toEqual(["typed"]);
  });
});

describe("a preset", () => {
  it("becomes its words, with yours behind", () => {
    const fix = PRESETS[0]?.instruction ?? "";
    expect(expand("/fix")).toBe(fix);
    expect(expand(" /FIX the loop\nplease")).toBe(`${fix}\nthe loop\nplease`);
    expect(expand("/unknown x")).toBe("/unknown x");
    expect(expand("plain")).toBe("plain");
  });
});
