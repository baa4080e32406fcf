/** What the panel's page and the extension tell each other, and the shapes in it. */

import type { FolderStatus } from "./states";
import type { Feature } from "./timeline";

/** `quiet`: nobody missed it. */
export type Tone = "good" | "slow" | "nothing" | "failed" | "quiet" | "running";

/** A part of a request's time. `engine`: in its queue, and reading the prompt. Milliseconds from the user's act. */
export interface Segment {
  readonly kind: "here" | "network" | "gateway" | "engine" | "decode" | "display";
  readonly fromMs: number;
  readonly ms: number;
}

/** Absent: the engine did not tell. */
export interface Tokens {
  readonly prompt: number;
  readonly cached?: number;
  readonly computed?: number;
  readonly written?: number;
}

export interface PanelRow {
  readonly id: number;
  readonly feature: Feature;
  /** `Date.now()` when it began. */
  readonly at: number;
  readonly model: string;
  readonly what: string;
  readonly outcome: string;
  readonly tone: Tone;
  readonly verdict: string;
  readonly totalMs: number | undefined;
  /** What the user waited for; see `feltMs`. */
  readonly feltMs: number | undefined;
  readonly segments: readonly Segment[];
  readonly tokens?: Tokens;
  readonly requestId?: string;
  /** Whether the server's account of it is in already, or is not to be had. */
  readonly asked: boolean;
  readonly facts: readonly (readonly [label: string, value: string])[];
}

export interface Summary {
  readonly requests: number;
  /** How many times p50 and p95 are made of. */
  readonly measured: number;
  readonly p50Ms?: number;
  readonly p95Ms?: number;
  /** Of all prompt tokens, found in the cache: 0 to 1. */
  readonly hitShare?: number;
  readonly slow: number;
  readonly nothing: number;
  readonly outcomes: readonly (readonly [outcome: string, times: number])[];
}

export interface LaneView {
  readonly model: string;
  readonly lane: string;
  readonly state: string;
  readonly reason: string;
  readonly resident: number | undefined;
  readonly packTokens: number;
  readonly filesInPack: number;
  readonly journalTokens: number;
  readonly predictedTtftS: number | undefined;
  readonly lastSaveToWarmS: number | undefined;
}

/** The server's part. `problem` empty: none. */
export interface ServerView {
  readonly address: string;
  readonly state: string;
  readonly problem: string;
  readonly models: readonly {
    readonly id: string;
    readonly role: string | undefined;
    readonly maxLength: number | undefined;
  }[];
  /** As the accounts of the requests name them, with how many each had. */
  readonly engines: readonly (readonly [engine: string, requests: number])[];
  readonly folder: FolderStatus | undefined;
  readonly workspace:
    | {
        readonly name: string;
        readonly files: number;
        readonly bytes: number;
        readonly revision: number;
        readonly lanes: readonly LaneView[];
      }
    | undefined;
}

/** `oldest`: rows with a smaller id are forgotten. `summaries` by feature, and of `all`. */
export type ToPanel =
  | {
      readonly type: "rows";
      readonly rows: readonly PanelRow[];
      readonly oldest: number;
      readonly summaries: Readonly<Record<string, Summary>>;
    }
  | { readonly type: "server"; readonly server: ServerView };

const PANEL_COMMANDS = ["check", "setUp", "log", "workspace.sync"] as const;
export type PanelCommand = (typeof PANEL_COMMANDS)[number];

/** `seen`: rows on the screen whose account may be asked for. `copy`: one row, or all without an id, as JSON. */
export type FromPanel =
  | { readonly type: "ready" }
  | { readonly type: "seen"; readonly ids: readonly number[] }
  | { readonly type: "copy"; readonly id?: number }
  | { readonly type: "run"; readonly command: PanelCommand };

/** A message of the page, if it is one. */
export function decodeFromPanel(value: unknown): FromPanel | undefined {
  if (typeof value !== "object" || value === null || !("type" in value)) return undefined;
  const message: Readonly<Record<string, unknown>> = { ...value };
  switch (message.type) {
    case "ready":
      return { type: "ready" };
    case "seen":
      if (!Array.isArray(message.ids)) return undefined;
      return { type: "seen", ids: message.ids.filter((id) => Number.isInteger(id)).slice(0, 200) };
    case "copy":
      return typeof message.id === "number" ? { type: "copy", id: message.id } : { type: "copy" };
    case "run": {
      const command = PANEL_COMMANDS.find((one) => one === message.command);
      return command === undefined ? undefined : { type: "run", command };
    }
    default:
      return undefined;
  }
}

/** The `x-aicockpit-context` header in a sentence that follows “… were computed, ”. */
export function contextSentence(header: string | undefined): string {
  if (header === undefined || header.trim() === "") return "and the server did not say why";
  const [amount = "", ...rest] = header.split(";");
  const reason = rest.join(";").trim();
  if (/^\s*none/.test(amount)) return `since there was no warm context${reason === "" ? "" : ` (${reason})`}`;
  if (/^\s*[\d,]+ tokens/.test(amount))
    return `since only ${amount.trim()} of context were warm${reason === "" || reason === "warm" ? "" : ` (${reason})`}`;
  return `since the context was: ${header.trim()}`;
}
