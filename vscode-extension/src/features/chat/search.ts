/** Finds words in a conversation. */

import type { Kept } from "./conversation";

const AROUND = 36;

export interface Hit {
  /** All words stand in the title. */
  readonly titled: boolean;
  /** Text around the first word that is not in the title; empty when all are. */
  readonly snippet: string;
}

/** Undefined: not all words are there. Case and accents do not matter. */
export function findIn(kept: Kept, query: string): Hit | undefined {
  const words = plain(query)
    .split(/\s+/)
    .filter((word) => word !== "");
  const title = plain(kept.title);
  const others = words.filter((word) => !title.includes(word));
  if (others.length === 0) return { titled: true, snippet: "" };
  const missing = new Set(others);
  let snippet = "";
  for (const turn of kept.turns) {
    const labels = turn.mentions.map((mention) => `${mention.label} ${mention.detail}`).join(" ");
    for (const text of [turn.question, turn.answer, labels]) {
      const searched = plain(text);
      for (const word of missing) {
        const at = searched.indexOf(word);
        if (at < 0) continue;
        missing.delete(word);
        if (snippet === "") snippet = around(text, at, word.length);
      }
    }
    if (missing.size === 0) return { titled: false, snippet };
  }
  return undefined;
}

/** Lower case without accents, of the same length wherever that matters. */
function plain(text: string): string {
  return text
    .toLowerCase()
    .normalize("NFD")
    .replace(/[\u0300-\u036f]/g, "");
}

function around(text: string, at: number, length: number): string {
  const start = Math.max(0, at - AROUND);
  const end = Math.min(text.length, at + length + AROUND);
  const middle = text.slice(start, end).replace(/\s+/g, " ").trim();
  return `${start > 0 ? "…" : ""}${middle}${end < text.length ? "…" : ""}`;
}
