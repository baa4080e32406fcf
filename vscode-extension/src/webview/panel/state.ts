/** What the page shows and what of it the user chose. Pure. */

import type { FromPanel, PanelRow, ServerView, Summary, ToPanel } from "../../features/panelProtocol";

export const FEATURES = ["all", "completion", "edit", "chat", "terminal", "docs"] as const;
export type FeatureChoice = (typeof FEATURES)[number];
export const TONES = ["all", "slow", "nothing"] as const;
export type ToneChoice = (typeof TONES)[number];

/** Kept by the editor while the page is hidden. */
export interface Choice {
  readonly feature: FeatureChoice;
  readonly tone: ToneChoice;
}

export interface State {
  /** By id. */
  readonly rows: ReadonlyMap<number, PanelRow>;
  readonly summaries: Readonly<Record<string, Summary>>;
  readonly server: ServerView | undefined;
  readonly choice: Choice;
  /** Rows whose details are open. */
  readonly open: ReadonlySet<number>;
  /** Until the extension has answered for the first time. */
  readonly waiting: boolean;
}

/** What the editor gives a page. */
export interface PanelApi {
  postMessage(message: FromPanel): void;
  getState(): unknown;
  setState(state: unknown): void;
}

/** The state at the start; `saved` is what the editor kept, if it makes sense. */
export function firstState(saved: unknown): State {
  return { rows: new Map(), summaries: {}, server: undefined, choice: choiceOf(saved), open: new Set(), waiting: true };
}

function choiceOf(saved: unknown): Choice {
  const value = typeof saved === "object" && saved !== null ? (saved as Partial<Record<keyof Choice, unknown>>) : {};
  return {
    feature: FEATURES.find((one) => one === value.feature) ?? "all",
    tone: TONES.find((one) => one === value.tone) ?? "all",
  };
}

/** The state after a message of the extension. */
export function received(state: State, message: ToPanel): State {
  if (message.type === "server") return { ...state, server: message.server };
  const rows = new Map([...state.rows].filter(([id]) => id >= message.oldest));
  for (const row of message.rows) rows.set(row.id, row);
  return { ...state, rows, summaries: message.summaries, waiting: false };
}

/** The rows to show, newest first. */
export function visibleRows(state: State): readonly PanelRow[] {
  const { feature, tone } = state.choice;
  return [...state.rows.values()]
    .filter((row) => feature === "all" || row.feature === feature)
    .filter((row) => tone === "all" || row.tone === tone || (tone === "nothing" && row.tone === "failed"))
    .sort((one, other) => other.id - one.id);
}

/** Milliseconds that a whole bar stands for: nine tenths of the shown requests fit, the others are cut. */
export function scaleOf(rows: readonly PanelRow[]): number {
  const totals = rows.map((row) => row.totalMs ?? 0).sort((one, other) => one - other);
  const high = totals[Math.max(0, Math.ceil(totals.length * 0.9) - 1)] ?? 0;
  return Math.max(100, high);
}

/** The page's words for a message of the extension; anything else is left out. */
export function isToPanel(value: unknown): value is ToPanel {
  if (typeof value !== "object" || value === null || !("type" in value)) return false;
  if (value.type === "server") return "server" in value;
  return value.type === "rows" && "rows" in value && Array.isArray(value.rows) && "summaries" in value;
}
