/** Figures for people. */

import type { Ending } from "../../features/chat/protocol";
import { cachedShare, count, milliseconds, percent } from "../../features/figures";

/** `12431` as `12.4k`: where there is little room. */
export function short(value: number): string {
  if (value < 1000) return String(Math.round(value));
  const thousands = value / 1000;
  return `${thousands < 100 ? thousands.toFixed(1).replace(/\.0$/, "") : Math.round(thousands)}k`;
}

/** A moment before `now`, both `Date.now()`: `just now`, `5 min ago`, `3 h ago`, `yesterday`, else the day. */
export function ago(at: number, now: number): string {
  const minutes = Math.floor((now - at) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h ago`;
  if (minutes < 48 * 60) return "yesterday";
  return new Date(at).toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });
}

/** `1,234 tokens, 1,100 cached (89 %), first token 85 ms`: as far as it is known, maybe nothing. A unit stays with its figure. */
export function cost(ending: Ending): string {
  const parts: string[] = [];
  if (ending.usage) parts.push(`${count(ending.usage.prompt)} tokens`);
  const share = cachedShare(ending.usage);
  if (share !== undefined) parts.push(`${count(ending.usage?.cached ?? 0)} cached (${percent(share)})`);
  if (ending.firstTokenMs !== undefined) parts.push(`first token ${milliseconds(ending.firstTokenMs)}`);
  return parts.join(", ").replace(/(?<=\d) (?=%|ms|s\b|min)/g, "\u00a0");
}

/** The rest of the figures, a line each: tokens written and their speed, the whole time, the context. */
export function costDetail(ending: Ending): string {
  const lines: string[] = [];
  const { usage, firstTokenMs, totalMs } = ending;
  if (usage) {
    const written = usage.completion;
    const seconds = totalMs !== undefined && firstTokenMs !== undefined ? (totalMs - firstTokenMs) / 1000 : 0;
    const speed = seconds > 0 && written > 1 ? `, ${Math.round((written - 1) / seconds)} a second` : "";
    lines.push(`${count(written)} tokens written${speed}`);
  }
  if (totalMs !== undefined) lines.push(`${milliseconds(totalMs)} in all`);
  if (ending.context) lines.push(`context: ${ending.context}`);
  return lines.join("\n");
}
