/** The instructions given before, newest first; and what the instruction box lists for what is typed. */

import { PRESETS } from "./presets";

export const KEPT = 50;
/** Longer ones are not kept: they are texts, not instructions to repeat. */
export const LONGEST = 2000;

export interface Choice {
  readonly kind: "typed" | "preset" | "earlier";
  /** What is shown, in one line. */
  readonly label: string;
  readonly detail: string;
  /** What is asked when it is chosen. */
  readonly instruction: string;
}

/** With this one in front, without its earlier self. */
export function remember(history: readonly string[], instruction: string): readonly string[] {
  const text = instruction.trim();
  if (text === "" || text.length > LONGEST) return history;
  return [text, ...history.filter((one) => one !== text)].slice(0, KEPT);
}

/** What was stored, whatever it was. */
export function restored(stored: unknown): readonly string[] {
  if (!Array.isArray(stored)) return [];
  return stored.filter((one): one is string => typeof one === "string" && one.trim() !== "").slice(0, KEPT);
}

/** Those that have all the words typed, in their order of age. */
export function matching(history: readonly string[], typed: string): readonly string[] {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  return history.filter((one) => words.every((word) => one.toLowerCase().includes(word)));
}

/** First what is typed, then earlier instructions; the presets last, or first when their name is typed. */
export function choices(history: readonly string[], typed: string): readonly Choice[] {
  const text = typed.trim();
  const presets = PRESETS.filter((preset) => preset.name.startsWith(text.toLowerCase())).map(
    ({ name, instruction }): Choice => ({ kind: "preset", label: name, detail: instruction, instruction: name }),
  );
  const earlier = matching(history, text)
    .filter((one) => one !== text)
    .map((one): Choice => ({ kind: "earlier", label: oneLine(one), detail: "", instruction: one }));
  if (text === "") return [...earlier, ...presets];
  if (presets.length > 0) return [...presets, ...earlier];
  return [{ kind: "typed", label: oneLine(text), detail: "", instruction: text }, ...earlier];
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, " ↵ ");
}
