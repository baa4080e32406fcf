/** What the instruction box lists for what is typed. */

import { matching } from "../history";
import { PRESETS } from "./presets";

export interface Choice {
  readonly kind: "typed" | "preset" | "earlier";
  /** What is shown, in one line. */
  readonly label: string;
  readonly detail: string;
  /** What is asked when it is chosen. */
  readonly instruction: string;
}

/** First what is typed, then earlier instructions; the presets last, or first when their name is typed. */
export function choices(history: readonly string[], typed: string): readonly Choice[] {
  const text = typed.trim();
  const presets = PRESETS.filter((preset) => preset.name.startsWith(text.toLowerCase())).map(
    ({ name, instruction }): Choice => ({ kind: "preset", label: name, detail: instruction, instruction: name }),
  );
  const earlier = matching(history, text).map(
    (one): Choice => ({ kind: "earlier", label: oneLine(one), detail: "", instruction: one }),
  );
  if (text === "") return [...earlier, ...presets];
  if (presets.length > 0) return [...presets, ...earlier];
  return [{ kind: "typed", label: oneLine(text), detail: "", instruction: text }, ...earlier];
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, " ↵ ");
}
