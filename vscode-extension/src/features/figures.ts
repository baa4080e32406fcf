/** Figures for people, the same everywhere: status bar, panel, chat, documentation. Pure. */

import type { Usage } from "../api/gateway";

/** Share of the prompt that was in the cache, 0 to 1; undefined where the engine did not tell. */
export function cachedShare(usage: Usage | undefined): number | undefined {
  if (usage?.cached === undefined || usage.prompt <= 0) return undefined;
  return Math.min(1, usage.cached / usage.prompt);
}

/** `63 %`; empty for undefined. Never 100 % before it is whole. */
export function percent(share: number | undefined): string {
  if (share === undefined || !Number.isFinite(share)) return "";
  const whole = share >= 1 ? 100 : Math.min(99, Math.round(share * 100));
  return `${Math.max(0, whole)} %`;
}

/** `84 ms`, `1.2 s`, `1 min 05 s`. */
export function milliseconds(ms: number): string {
  if (ms < 999.5) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

/** `1,912`, the same in every locale. */
export function count(tokens: number): string {
  return String(Math.round(tokens)).replace(/\B(?=(?:\d{3})+$)/g, ",");
}

/** `12 kB`, `3.4 MB`: for people. */
export function shownBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`;
  const [value, unit] = bytes < 1_000_000 ? [bytes / 1000, "kB"] : [bytes / 1_000_000, "MB"];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}
