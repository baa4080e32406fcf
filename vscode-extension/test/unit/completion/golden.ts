/** Reads the golden cases of completions: `test/golden/completion/*.txt`; their format is told in the README there. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface Case {
  readonly file: string;
  readonly title: string;
  readonly language: string;
  readonly multiline: "auto" | "always" | "never";
  readonly finish: string | undefined;
  readonly prefix: string;
  readonly suffix: string;
  readonly answer: string;
  /** The ghost text, or `nothing: ` and a part of the reason. */
  readonly expected: string;
  readonly replace: number;
}

const FOLDER = join(import.meta.dirname, "..", "..", "golden", "completion");

export function goldenCases(): readonly Case[] {
  const files = readdirSync(FOLDER).filter((name) => name.endsWith(".txt"));
  return files.sort().flatMap((file) => casesOf(file, readFileSync(join(FOLDER, file), "utf8")));
}

function casesOf(file: string, text: string): readonly Case[] {
  const parts = text.split(/^=== (.+)$/m).slice(1);
  const cases: Case[] = [];
  for (let at = 0; at < parts.length; at += 2) cases.push(caseOf(file, parts[at] ?? "", parts[at + 1] ?? ""));
  return cases;
}

function caseOf(file: string, title: string, text: string): Case {
  const [head = "", document = "", answer = "", expected = ""] = text.split(/^--- .*\n/m);
  const field = (name: string) => new RegExp(`^${name}: *(.+)$`, "m").exec(head)?.[1];
  const [prefix, suffix, ...more] = visible(document).split("█");
  if (prefix === undefined || suffix === undefined || more.length > 0) throw new Error(`${file}: ${title}: one cursor`);
  return {
    file,
    title,
    language: field("language") ?? "",
    multiline: (field("multiline") ?? "auto") as Case["multiline"],
    finish: field("finish"),
    prefix,
    suffix,
    answer: visible(answer),
    expected: expected.includes("⏎") ? (visible(expected).split("⏎")[0] ?? "") : visible(expected).trimEnd(),
    replace: Number(field("replace") ?? 0),
  };
}

/** Without the line end that belongs to the file; `→` is a tab, `·` a blank. */
function visible(section: string): string {
  return section.replace(/\n$/, "").replaceAll("→", "\t").replaceAll("·", " ");
}
