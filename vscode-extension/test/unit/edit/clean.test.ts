import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type CleanOptions, clean } from "../../../src/features/edit/clean";

const GOLDEN = join(import.meta.dirname, "..", "..", "golden", "edit");

interface Case {
  readonly name: string;
  readonly head: ReadonlyMap<string, string>;
  readonly answer: string;
  readonly expected: readonly string[];
  readonly options: CleanOptions;
}

/** A line of note, `key: value` lines, then sections `=== name`; a section without lines is no line at all. */
function parsed(name: string): Case {
  const [head = "", ...sections] = readFileSync(join(GOLDEN, name), "utf8").split(/^=== /m);
  const settings = new Map(head.split("\n").flatMap((line) => (/^[\w-]+: /.test(line) ? [pair(line)] : [])));
  const parts = new Map(sections.map((section) => [section.slice(0, section.indexOf("\n")), body(section)]));
  return {
    name,
    head: settings,
    answer: (parts.get("answer") ?? []).join("\n"),
    expected: parts.get("expected") ?? [],
    options: {
      original: parts.get("original") ?? [],
      before: parts.get("before") ?? [],
      after: parts.get("after") ?? [],
      language: settings.get("language") ?? "",
      markers: ["<edit_this>", "</edit_this>"],
      whole: settings.get("whole") === "yes",
      ownIndent: settings.get("own-indent") === "yes",
    },
  };
}

function pair(line: string): readonly [string, string] {
  const at = line.indexOf(": ");
  return [line.slice(0, at), line.slice(at + 2)];
}

function body(section: string): readonly string[] {
  return section.split("\n").slice(1, -1);
}

const CASES = readdirSync(GOLDEN).map(parsed);

describe("clean", () => {
  it("has golden cases", () => expect(CASES.length).toBeGreaterThanOrEqual(25));

  it.each(CASES)("$name", ({ answer, expected, options, head }) => {
    const result = clean(answer, true, options);
    expect(result.lines).toEqual(expected);
    expect(result.verdict).toBe(head.get("verdict") ?? "code");
  });

  it.each(CASES.filter((one) => one.head.get("streams") !== "no"))("$name, while it streams", (one) => {
    for (let length = 0; length <= one.answer.length; length++) {
      const { lines } = clean(one.answer.slice(0, length), false, one.options);
      expect(one.expected.slice(0, lines.length)).toEqual(lines);
    }
  });
});
