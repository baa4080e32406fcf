/** Figures for people. */

import type { Ending } from "../../features/chat/protocol";

const plain = new Intl.NumberFormat("en");

/** `12431` as `12,431`. */
export function count(value: number): string {
  return plain.format(Math.round(value));
}

/** `12431` as `12.4k`: where there is little room. */
export function short(value: number): string {
  if (value < 1000) return String(Math.round(value));
  const thousands = value / 1000;
  return `${thousands < 100 ? thousands.toFixed(1).replace(/\.0$/, "") : Math.round(thousands)}k`;
}

/** Milliseconds: `85 ms`, `1.2 s`, `2 min 5 s`. */
export function duration(ms: number): string {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** 0 to 1 as `63 %`; never 100 % before it is whole. */
export function percent(share: number): string {
  return `${Math.floor(Math.min(1, Math.max(0, share)) * 100 + 1e-9)} %`;
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

/** Share of the prompt that was in the cache, 0 to 1; undefined where the engine did not tell. */
export function cachedShare(ending: Ending): number | undefined {
  const usage = ending.usage;
  if (usage?.cached === undefined || usage.cached === null || usage.prompt <= 0) return undefined;
  return Math.min(1, usage.cached / usage.prompt);
}

/** `1,234 tokens, 1,100 cached (89 %), first token 85 ms`: as far as it is known, maybe nothing. */
export function cost(ending: Ending): string {
  const parts: string[] = [];
  if (ending.usage) parts.push(`${count(ending.usage.prompt)} tokens`);
  const share = cachedShare(ending);
  if (share !== undefined) parts.push(`${count(ending.usage?.cached ?? 0)} cached (${percent(share)})`);
  if (ending.firstTokenMs !== undefined) parts.push(`first token ${duration(ending.firstTokenMs)}`);
  return parts.join(", ");
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
  if (totalMs !== undefined) lines.push(`${duration(totalMs)} in all`);
  if (ending.context) lines.push(`context: ${ending.context}`);
  return lines.join("\n");
}
