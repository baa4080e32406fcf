/** What was asked for before, in one box or another: newest first, each once, bounded. Pure. */

export const KEPT = 50;
/** Longer ones are not kept: they are texts, not requests to repeat. */
export const LONGEST = 2000;

/** With this one in front, without its earlier self. */
export function remember(history: readonly string[], asked: string): readonly string[] {
  const text = asked.trim();
  if (text === "" || text.length > LONGEST) return history;
  return [text, ...history.filter((one) => one !== text)].slice(0, KEPT);
}

/** What was stored, whatever it was. */
export function restored(stored: unknown): readonly string[] {
  if (!Array.isArray(stored)) return [];
  return stored.filter((one): one is string => typeof one === "string" && one.trim() !== "").slice(0, KEPT);
}

/** The others that have all the words typed, in their order of age. */
export function matching(history: readonly string[], typed: string): readonly string[] {
  const text = typed.trim();
  const words = text.toLowerCase().split(/\s+/);
  return history.filter((one) => one !== text && words.every((word) => one.toLowerCase().includes(word)));
}
