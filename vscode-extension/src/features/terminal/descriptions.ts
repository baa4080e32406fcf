/** The descriptions given before, newest first, and what is listed for what is typed. */

const KEPT = 50;
const LONGEST = 1000;

export interface DescriptionChoice {
  /** In one line. */
  readonly label: string;
  readonly description: string;
  readonly typed: boolean;
}

/** With this one in front, without its earlier self. */
export function remembered(history: readonly string[], description: string): readonly string[] {
  const text = description.trim();
  if (text === "" || text.length > LONGEST) return history;
  return [text, ...history.filter((one) => one !== text)].slice(0, KEPT);
}

/** What was stored, whatever it was. */
export function restored(stored: unknown): readonly string[] {
  if (!Array.isArray(stored)) return [];
  return stored.filter((one): one is string => typeof one === "string" && one.trim() !== "").slice(0, KEPT);
}

/** First what is typed, then the earlier ones that have all its words. */
export function choicesFor(history: readonly string[], typed: string): readonly DescriptionChoice[] {
  const text = typed.trim();
  const words = text.toLowerCase().split(/\s+/);
  const earlier = history
    .filter((one) => one !== text && words.every((word) => one.toLowerCase().includes(word)))
    .map((one) => ({ label: oneLine(one), description: one, typed: false }));
  return text === "" ? earlier : [{ label: oneLine(text), description: text, typed: true }, ...earlier];
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ");
}
