import { describe, expect, test } from "vitest";
import { FILTERS, filtered } from "../../../src/features/completion/filters";
import { settle } from "../../../src/features/completion/settle";
import { stopAt } from "../../../src/features/completion/stop";
import { type Where, whereOf } from "../../../src/features/completion/where";
import { type Case, goldenCases } from "./golden";

const CASES = goldenCases();

function whereIn(one: Case): Where {
  return whereOf(one.prefix, one.suffix, one.language, one.multiline);
}

/** As the session reads it: piece by piece until a stop rule is sure. */
function streamed(one: Case, where: Where, size: number): { raw: string; finish: string | undefined } {
  for (let end = size; end < one.answer.length; end += size) {
    const raw = one.answer.slice(0, end);
    if (stopAt(raw, where) !== undefined) return { raw, finish: undefined };
  }
  return { raw: one.answer, finish: one.finish };
}

function shown(one: Case, size: number): string {
  const where = whereIn(one);
  const { raw, finish } = streamed(one, where, size);
  const settled = settle(raw, where, finish);
  return settled.text === "" ? `nothing: ${settled.why}` : settled.text;
}

describe("golden completions", () => {
  test("cover the languages, in at least 60 cases", () => {
    expect(CASES.length).toBeGreaterThanOrEqual(60);
    const languages = new Set(CASES.map((one) => one.language));
    for (const wanted of ["python", "typescript", "go", "rust", "java", "c", "html", "yaml", "markdown"]) {
      expect(languages).toContain(wanted);
    }
  });

  test.each(CASES.map((one) => [`${one.file}: ${one.title}`, one] as const))("%s", (_, one) => {
    for (const size of [one.answer.length + 1, 7, 1]) {
      const result = shown(one, size);
      if (one.expected.startsWith("nothing: ")) {
        expect(result).toMatch(/^nothing: /);
        expect(result).toContain(one.expected.slice("nothing: ".length));
      } else expect(result).toBe(one.expected);
    }
    const where = whereIn(one);
    expect(settle(one.answer, where, one.finish).replace).toBe(one.replace);
  });

  test("every filter changes or drops something in them", () => {
    const used = new Set<string>();
    for (const one of CASES) {
      const where = whereIn(one);
      const raw = stopAt(one.answer, where, true)?.text ?? one.answer;
      const place = one.finish === "length" ? { ...where, cutOff: true } : where;
      for (const step of filtered(raw, place).steps) used.add(step.filter);
    }
    expect([...used].sort()).toEqual(FILTERS.map(([name]) => name).sort());
  });

  test("a text that went through the filters goes through them unchanged", () => {
    for (const one of CASES) {
      const where = whereIn(one);
      const once = settle(one.answer, where, one.finish).text;
      if (once === "") continue;
      expect(filtered(once, where), one.title).toEqual({ text: once, steps: [] });
    }
  });

  test("what is shown, with what it takes the place of, keeps the text behind the cursor", () => {
    for (const one of CASES) {
      const settled = settle(one.answer, whereIn(one), one.finish);
      const replaced = one.suffix.slice(0, settled.replace);
      let at = 0;
      for (const char of settled.text) if (char === replaced[at]) at += 1;
      expect(at, one.title).toBe(replaced.length);
    }
  });
});
