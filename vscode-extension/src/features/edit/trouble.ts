/** What goes wrong with an edit, in words that say what to do, and what is offered beside them. */

import { Fault } from "../../api/fault";
import type { Cleaned } from "./clean";
import type { Trouble } from "./session";

/** What to offer beside a message. */
export type Offer = "again" | "change" | "key" | "setUp" | "acceptAll" | "rejectAll";

export interface Message {
  readonly level: "info" | "error";
  readonly text: string;
  readonly offers: readonly Offer[];
  /** Messages with the same one are shown once, not at every edit. */
  readonly once?: string;
}

/** Why saving happens: by the user's act, or by itself after a while. */
export type SaveReason = "asked" | "by itself";

const MORE_ROOM = "Select less, or raise the setting aicockpit.chat.maxTokens.";
const SAY_MORE = "Say in other words what should change in the code.";
const SAVED: Readonly<Record<SaveReason, string>> = {
  asked: "Saved without the proposed lines: they are still to be accepted or rejected.",
  "by itself": "Auto save is on: until you accept or reject an edit, the saved file has its old and its new lines.",
};
const LONGEST_TALK = 200;

export const UNCHANGED: Message = { level: "info", text: "The model proposes no change.", offers: ["change"] };
export const READ_ONLY: Message = {
  level: "error",
  text: "This document is read-only; nothing was changed.",
  offers: [],
};

export function savedMessage(reason: SaveReason): Message {
  return { level: "info", text: SAVED[reason], offers: ["acceptAll", "rejectAll"], once: `saved ${reason}` };
}

export function cutNotice(tokens: number): string {
  return `The answer was cut off after ${tokens} tokens; what it had not come to is as it was. ${MORE_ROOM}`;
}

export function troubleOf(error: unknown): Trouble {
  if (error instanceof Fault) return { message: error.message, fix: error.fix, kind: error.kind };
  return { message: error instanceof Error ? error.message : String(error), fix: "Try again.", kind: "other" };
}

/** An answer without code. `usedUp`: the tokens it was cut off after. */
export function emptyAnswer(answer: Cleaned, usedUp: number | undefined): Trouble {
  if (usedUp !== undefined) {
    return { message: `The model used all ${usedUp} tokens before any code.`, fix: MORE_ROOM, kind: "cut" };
  }
  if (answer.verdict === "nothing") return { message: "The model answered nothing.", fix: SAY_MORE, kind: "nothing" };
  const talk = answer.talk.replace(/\s+/g, " ").trim();
  const shortened = talk.length > LONGEST_TALK ? `${talk.slice(0, LONGEST_TALK)}…` : talk;
  return { message: `The model answered in words: “${shortened}”`, fix: SAY_MORE, kind: "words" };
}

/** The message of a trouble. What does not fit is not offered again: first less has to be selected. */
export function troubleMessage(trouble: Trouble): Message {
  return { level: "error", text: `${trouble.message} ${trouble.fix}`.trim(), offers: offersFor(trouble.kind) };
}

function offersFor(kind: string | undefined): readonly Offer[] {
  if (kind === "too_large") return [];
  if (kind === "unauthorized") return ["key", "again", "change"];
  if (kind === "refused" || kind === "dns" || kind === "not_found" || kind === "unreachable")
    return ["setUp", "again", "change"];
  return ["again", "change"];
}
