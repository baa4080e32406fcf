/** What a check came to, in words: for the log, the list in the editor and its headline. */

import type { Step } from "./check";

/** A step as a line of the log. */
export function report(step: Step): string {
  const mark = { ok: "ok  ", warn: "note", fail: "FAIL" }[step.state];
  return `${mark} ${step.title}: ${step.what}${step.fix === "" ? "" : ` ${step.fix}`}`;
}

/** All steps in one sentence. */
export function conclusion(steps: readonly Step[]): { readonly state: Step["state"]; readonly text: string } {
  const failed = steps.find((step) => step.state === "fail");
  if (failed !== undefined) return { state: "fail", text: failed.what };
  const noted = steps.filter((step) => step.state === "warn");
  if (noted.length > 0) return { state: "warn", text: `Connected. ${noted.map((step) => step.what).join(" ")}` };
  return { state: "ok", text: "Everything works." };
}

/** Words of a text in lines of at most `width` characters; a longer word has a line of its own. */
export function wrap(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}
