/** What a judge of one program says, and how it reads the program's words. */

import type { Word } from "./words";

/** `safe`: reads only. `changes`: writes, installs, sends. `dangerous`: may not be undone, or cannot be judged. */
export type Level = "safe" | "changes" | "dangerous";

export interface Verdict {
  readonly level: Level;
  /** In words, to follow "This command …"; empty for a safe one. */
  readonly reason: string;
}

export const SAFE: Verdict = { level: "safe", reason: "" };

export function changes(reason: string): Verdict {
  return { level: "changes", reason };
}

export function dangerous(reason: string): Verdict {
  return { level: "dangerous", reason };
}

const RANK: Readonly<Record<Level, number>> = { safe: 0, changes: 1, dangerous: 2 };

/** Positive: `one` is worse than `other`. */
export function compareLevels(one: Level, other: Level): number {
  return RANK[one] - RANK[other];
}

export function worst(verdicts: readonly Verdict[]): Verdict {
  return verdicts.reduce((worse, one) => (compareLevels(one.level, worse.level) > 0 ? one : worse), SAFE);
}

/** A program's arguments, without the program. */
export class Arguments {
  /** Every word's text. */
  readonly texts: readonly string[];
  /** What is no option; behind `--` everything. */
  readonly operands: readonly Word[];

  constructor(readonly words: readonly Word[]) {
    this.texts = words.map((word) => word.text);
    const end = this.texts.indexOf("--");
    this.operands = words.filter((word, at) =>
      end >= 0 && at >= end ? at > end : !word.text.startsWith("-") || word.text === "-",
    );
  }

  /** The nth operand's text; empty where there is none. */
  operand(at: number): string {
    return this.operands[at]?.text ?? "";
  }

  /** The first word that is neither an option nor one's value, and what follows it. `values`: options with a value. */
  subcommand(values: ReadonlySet<string>): { readonly name: string; readonly rest: Arguments; readonly at: number } {
    let at = 0;
    while (at < this.texts.length && (this.texts[at] ?? "").startsWith("-"))
      at += values.has(this.texts[at] ?? "") ? 2 : 1;
    return { name: this.texts[at] ?? "", rest: new Arguments(this.words.slice(at + 1)), at };
  }

  /** Whether an option is given: one letter alone or in a cluster (`-rf`), a word as `--word` or `--word=…`. */
  has(...names: readonly string[]): boolean {
    const end = this.texts.indexOf("--");
    const options = end < 0 ? this.texts : this.texts.slice(0, end);
    return options.some((text) => names.some((name) => isOption(text, name)));
  }

  /** Whether a word is exactly one of these, in any case: for options like `-Recurse` and `/s`. */
  says(...words: readonly string[]): boolean {
    return this.texts.some((text) => words.includes(text.toLowerCase()));
  }

  /** Whether a word begins so, in any case. */
  begins(...starts: readonly string[]): boolean {
    return this.texts.some((text) => starts.some((start) => text.toLowerCase().startsWith(start)));
  }

  /** What follows an option as its value: `-o value`, `-ovalue`, `--option value`, `--option=value`. */
  value(short: string, long?: string): Word | undefined {
    for (const [at, word] of this.words.entries()) {
      if (word.text === `-${short}` || (long !== undefined && word.text === `--${long}`)) return this.words[at + 1];
      if (long !== undefined && word.text.startsWith(`--${long}=`)) {
        return { ...word, text: word.text.slice(long.length + 3) };
      }
      if (word.text.startsWith(`-${short}`) && !word.text.startsWith("--"))
        return { ...word, text: word.text.slice(2) };
    }
    return undefined;
  }
}

function isOption(text: string, name: string): boolean {
  if (!text.startsWith("-")) return false;
  if (name.length > 1) return text === `--${name}` || text.startsWith(`--${name}=`);
  return /^-[A-Za-z0-9]+$/.test(text) && text.includes(name, 1);
}

/** Decides about one program by its arguments. `program`: its name without path, lower case. */
export type Judge = (given: Arguments, program: string) => Verdict;
