/**
 * What the chat page and the extension tell each other. Pure types, and one check of what comes from the page.
 *
 * The extension owns the truth (conversations, chips, models); the page owns what is on the screen and the text being
 * typed, which it reports as `draft`. After `ready` the extension answers with `state`; from then on each message changes
 * a part of it. A page that was hidden starts anew with `ready`, so nothing depends on a message having been seen.
 */

import type { Usage } from "../../api/gateway";
import type { ContextKind as MentionKind } from "../../context/mentions";

export type { Usage } from "../../api/gateway";
/** Pasted images are no mentions: they travel in `ask.images`. */
export { CONTEXT_KINDS as MENTION_KINDS, type ContextKind as MentionKind } from "../../context/mentions";

/** A chip: something sent along with the question. Its `id` is the suggestion's that it was made of. */
export interface Mention {
  readonly id: string;
  readonly kind: MentionKind;
  readonly label: string;
  /** For the tool tip: the whole path, the lines. */
  readonly detail: string;
  /** Estimated; undefined while it is being read. */
  readonly tokens?: number | undefined;
  /** Why it cannot be sent, or what was cut off; the chip shows it as a warning. */
  readonly problem?: string | undefined;
}

/** One row of the popup that `@` opens. */
export interface Suggestion {
  readonly id: string;
  readonly kind: MentionKind;
  readonly label: string;
  readonly detail: string;
  /** Stands in the text for the typed `@query`; may be empty. One that ends in `:` is a category: the popup goes on. */
  readonly insert: string;
  readonly icon: MentionKind;
}

/** A failure, for people: what happened and what to do. `command` offers the remedy as a button. */
export interface FaultView {
  readonly message: string;
  readonly fix: string;
  readonly command?: PageCommand | undefined;
}

/** Where a part of the answer's context was read: a page of documentation, or a file. `href` as in `openLink`. */
export interface Source {
  readonly title: string;
  readonly href: string;
}

/** What an answer came to. Milliseconds since the question was sent; undefined: unknown or never happened. */
export interface Ending {
  readonly usage?: Usage | undefined;
  readonly firstTokenMs?: number | undefined;
  readonly totalMs?: number | undefined;
  /** The server's word on the repository context (`x-aicockpit-context`). */
  readonly context?: string | undefined;
  /** The person stopped it. */
  readonly stopped?: boolean | undefined;
  /** The answer was cut at the limit of tokens. */
  readonly truncated?: boolean | undefined;
  readonly fault?: FaultView | undefined;
}

/** A question and its answer. No `ending`: the answer is still coming. */
export interface Turn {
  readonly id: string;
  readonly question: string;
  readonly mentions: readonly Mention[];
  /** Data URLs. */
  readonly images: readonly string[];
  readonly model: string;
  /** Markdown, as far as it has come. */
  readonly answer: string;
  readonly reasoning: string;
  readonly sources: readonly Source[];
  readonly ending?: Ending | undefined;
}

/** A conversation in the list. */
export interface ConversationHead {
  readonly id: string;
  readonly title: string;
  /** `Date.now()` of its last change. */
  readonly at: number;
  readonly turns: number;
}

export interface Conversation {
  readonly id: string;
  readonly title: string;
  readonly turns: readonly Turn[];
}

export interface ModelView {
  readonly id: string;
  /** Tokens, prompt and answer together. */
  readonly maxLength?: number | undefined;
  readonly vision: boolean;
}

export interface ConnectionView {
  readonly kind: "unknown" | "ready" | "no_key" | "unauthorized" | "offline" | "no_model";
  /** Empty where all is well. */
  readonly why: string;
  readonly fix: string;
}

export interface FolderView {
  readonly name: string;
  readonly state: "syncing" | "cold" | "warming" | "warm" | "off" | "failed";
  /** 0 to 1: sent while `syncing`, else resident in the model's cache. */
  readonly share?: number | undefined;
  readonly why: string;
}

/** All that the page shows. */
export interface ChatState {
  /** The newest conversations; `searchConversations` finds the others. */
  readonly conversations: readonly ConversationHead[];
  readonly current: Conversation;
  readonly models: readonly ModelView[];
  /** The model that answers next; undefined: none is served. */
  readonly model?: string | undefined;
  readonly connection: ConnectionView;
  /** Undefined: no folder is open, or it is not synced. */
  readonly folder?: FolderView | undefined;
  /** What was being typed, as last reported by `draft`. */
  readonly draft: string;
  readonly mentions: readonly Mention[];
}

/** Commands of the extension that the page may run: `aicockpit.NAME`. */
export const COMMANDS = ["setUp", "setKey", "check", "panel", "workspace.sync", "docs.add"] as const;
export type PageCommand = (typeof COMMANDS)[number];

/** A code block of an answer. `block` counts an answer's fenced and indented blocks from 0, in their order. */
export interface BlockPlace {
  readonly turn: string;
  readonly block: number;
  readonly code: string;
  /** As written behind the fence, lower case; may be empty. */
  readonly language: string;
  /** A file that the fence named (```ts src/a.ts, ```ts title="a.ts"). */
  readonly path?: string | undefined;
}

export type FromPage =
  /** The page listens. Answer: `state`. Also sent when the page saw that it missed something. */
  | { readonly type: "ready" }
  /** `mentions`: ids of the chips on the screen, also of ones just picked. Clears draft and chips once `turnStarted` comes. */
  | {
      readonly type: "ask";
      readonly text: string;
      readonly mentions: readonly string[];
      readonly images: readonly string[];
    }
  | { readonly type: "stop" }
  /** Ask the turn's question again; it replaces this turn and those after it. */
  | { readonly type: "retry"; readonly turn: string }
  /** The same with another text, and the turn's own mentions. */
  | { readonly type: "edit"; readonly turn: string; readonly text: string }
  /** Rows for `@query`. `kind`: the category that was typed (`@file:`), undefined for all. Answer: `suggestions`. */
  | {
      readonly type: "suggest";
      readonly query: string;
      readonly kind?: MentionKind | undefined;
      readonly requestNumber: number;
    }
  /** A suggestion was picked. Answer: `mentions`. */
  | { readonly type: "addMention"; readonly id: string }
  | { readonly type: "removeMention"; readonly id: string }
  /** A chip was clicked: show the file. `turn`: the chip of an earlier question. */
  | { readonly type: "openMention"; readonly id: string; readonly turn?: string | undefined }
  /** Files and folders dropped in. Answer: `mentions`. */
  | { readonly type: "drop"; readonly uris: readonly string[] }
  /** Show a diff against the file. Answer: `applied`. */
  | ({ readonly type: "apply" } & BlockPlace)
  /** About the diff that is shown (`applied` said so). */
  | { readonly type: "decide"; readonly turn: string; readonly block: number; readonly accepted: boolean }
  | ({ readonly type: "insert" } & BlockPlace)
  | ({ readonly type: "runInTerminal" } & BlockPlace)
  | { readonly type: "copy"; readonly text: string }
  /** `http:`, `https:`, or a path in the workspace, maybe with `#L12` or `:12`. The extension checks it again. */
  | { readonly type: "openLink"; readonly href: string }
  | { readonly type: "newChat" }
  | { readonly type: "openConversation"; readonly id: string }
  /** Answer: `conversations`. An empty query asks for the newest. */
  | { readonly type: "searchConversations"; readonly query: string; readonly requestNumber: number }
  /** May be undone by `restoreConversation` as long as this editor window is open. */
  | { readonly type: "deleteConversation"; readonly id: string }
  | { readonly type: "restoreConversation"; readonly id: string }
  | { readonly type: "renameConversation"; readonly id: string; readonly title: string }
  | { readonly type: "exportConversation"; readonly id: string }
  /** An empty id: let the person pick. */
  | { readonly type: "chooseModel"; readonly id: string }
  /** What is being typed, shortly after each change; kept so that nothing is lost. Answer: `tokens`. */
  | { readonly type: "draft"; readonly text: string }
  | { readonly type: "command"; readonly name: PageCommand }
  /** The action of a `notice`. */
  | { readonly type: "act"; readonly token: string }
  /** A mistake in the page, for the log. */
  | { readonly type: "pageError"; readonly message: string };

export type AppliedState = "working" | "shown" | "applied" | "rejected" | "failed";

export type ToPage =
  | { readonly type: "state"; readonly state: ChatState }
  /** Turns from `from` on (an id) are replaced by this one; undefined: it is added at the end. */
  | { readonly type: "turnStarted"; readonly turn: Turn; readonly from?: string | undefined }
  /** `at`: length of the answer before this piece, so that a piece that was missed is noticed. */
  | {
      readonly type: "delta";
      readonly turn: string;
      readonly at: number;
      readonly text: string;
      readonly reasoning?: string | undefined;
    }
  | { readonly type: "turnEnded"; readonly turn: string; readonly ending: Ending }
  | { readonly type: "sources"; readonly turn: string; readonly sources: readonly Source[] }
  | { readonly type: "suggestions"; readonly requestNumber: number; readonly items: readonly Suggestion[] }
  | { readonly type: "mentions"; readonly mentions: readonly Mention[] }
  /** Estimate for what would be sent now: history, chips and draft. `limit`: what the model takes. */
  | { readonly type: "tokens"; readonly prompt: number; readonly limit?: number | undefined }
  | {
      readonly type: "applied";
      readonly turn: string;
      readonly block: number;
      readonly state: AppliedState;
      /** For people: the file, or why it failed. */
      readonly detail?: string | undefined;
    }
  | {
      readonly type: "conversations";
      /** That of the search; 0: the list changed by itself. */
      readonly requestNumber: number;
      readonly items: readonly ConversationHead[];
    }
  | {
      readonly type: "models";
      readonly models: readonly ModelView[];
      readonly model?: string | undefined;
    }
  | { readonly type: "connection"; readonly connection: ConnectionView }
  | { readonly type: "folder"; readonly folder?: FolderView | undefined }
  /** Put the cursor into the question; `text` is added to what stands there. */
  | { readonly type: "focus"; readonly text?: string | undefined }
  /** Show the list of conversations. */
  | { readonly type: "showHistory" }
  /** One line at the bottom that goes away; `action` is a button that sends `act`. */
  | {
      readonly type: "notice";
      readonly text: string;
      readonly action?: { readonly label: string; readonly token: string } | undefined;
    };

type Check = "string" | "number" | "boolean" | "strings" | "images" | "string?";

const block = { turn: "string", block: "number", code: "string", language: "string", path: "string?" } as const;

const FIELDS: Readonly<Record<FromPage["type"], Readonly<Record<string, Check>>>> = {
  ready: {},
  ask: { text: "string", mentions: "strings", images: "images" },
  stop: {},
  retry: { turn: "string" },
  edit: { turn: "string", text: "string" },
  suggest: { query: "string", kind: "string?", requestNumber: "number" },
  addMention: { id: "string" },
  removeMention: { id: "string" },
  openMention: { id: "string", turn: "string?" },
  drop: { uris: "strings" },
  apply: block,
  decide: { turn: "string", block: "number", accepted: "boolean" },
  insert: block,
  runInTerminal: block,
  copy: { text: "string" },
  openLink: { href: "string" },
  newChat: {},
  openConversation: { id: "string" },
  searchConversations: { query: "string", requestNumber: "number" },
  deleteConversation: { id: "string" },
  restoreConversation: { id: "string" },
  renameConversation: { id: "string", title: "string" },
  exportConversation: { id: "string" },
  chooseModel: { id: "string" },
  draft: { text: "string" },
  command: { name: "string" },
  act: { token: "string" },
  pageError: { message: "string" },
};

/** The message, if it is one that the page may send and its fields have the right types; else undefined. */
export function fromPage(value: unknown): FromPage | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const message = value as Readonly<Record<string, unknown>>;
  const type = message.type;
  if (typeof type !== "string" || !Object.hasOwn(FIELDS, type)) return undefined;
  const fields = FIELDS[type as FromPage["type"]];
  for (const [name, check] of Object.entries(fields)) if (!holds(message[name], check)) return undefined;
  if (type === "command" && !COMMANDS.some((name) => name === message.name)) return undefined;
  return value as FromPage;
}

/** Pasted pictures only: the server would fetch what an address names. */
export function isPicture(value: unknown): value is string {
  return typeof value === "string" && /^data:image\/(?:png|jpeg|gif|webp);base64,/.test(value);
}

function holds(value: unknown, check: Check): boolean {
  switch (check) {
    case "string":
      return typeof value === "string";
    case "number":
      return typeof value === "number" && Number.isFinite(value);
    case "boolean":
      return typeof value === "boolean";
    case "string?":
      return value === undefined || typeof value === "string";
    case "strings":
      return Array.isArray(value) && value.every((item) => typeof item === "string");
    case "images":
      return Array.isArray(value) && value.every(isPicture);
  }
}
