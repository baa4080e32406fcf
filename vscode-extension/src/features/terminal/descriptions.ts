/** What the box for descriptions lists for what is typed. */

import { matching } from "../history";

export interface DescriptionChoice {
  /** In one line. */
  readonly label: string;
  readonly description: string;
  readonly typed: boolean;
}

/** First what is typed, then the earlier ones that have all its words. */
export function choicesFor(history: readonly string[], typed: string): readonly DescriptionChoice[] {
  const text = typed.trim();
  const earlier = matching(history, text).map((one) => ({ label: oneLine(one), description: one, typed: false }));
  return text === "" ? earlier : [{ label: oneLine(text), description: text, typed: true }, ...earlier];
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ");
}
