/** One edit of one part of a document, from the question to the last decision: a state machine without an editor. */

import { accept, blocksOf, compare, keptRows, type Row, reject, withoutNew, withoutOld } from "./diff";
import type { Turn } from "./prompt";
import { candidate, follow, type Reach, startReach } from "./reach";

export type Phase = "asking" | "streaming" | "reviewing" | "done";
export type Outcome =
  | "" // not at its end
  | "accepted"
  | "rejected"
  | "partly accepted"
  | "unchanged" // the answer is what was there
  | "stopped" // before anything came
  | "undone"
  | "by hand" // settled by typing
  | "closed";

/** What went wrong with the last request, in words that say what to do. */
export interface Trouble {
  readonly message: string;
  readonly fix: string;
  readonly kind?: string;
}

export interface EditState {
  readonly phase: Phase;
  /** The lines before anything happened: what undo brings back. */
  readonly original: readonly string[];
  /** The lines under review as they are to stand in the document. */
  readonly rows: readonly Row[];
  /** Asked last; kept through every error. */
  readonly instruction: string;
  /** What the model was asked and what came of it, oldest first. */
  readonly turns: readonly Turn[];
  /** The running request: what rejecting gives, and how far the answer has come. */
  readonly floor: readonly string[];
  readonly reach: Reach;
  /** The rows before the last request, for another try; gone once something was decided since. */
  readonly earlier: readonly Row[] | undefined;
  readonly trouble: Trouble | undefined;
  readonly notice: string;
  readonly accepted: number;
  readonly rejected: number;
  readonly outcome: Outcome;
}

export type Event =
  | { readonly type: "ask"; readonly instruction: string }
  | { readonly type: "again" } // the same instruction, from where it began
  | { readonly type: "arrived"; readonly lines: readonly string[] }
  /** `cut`: the answer ended before its end; what it has not come to stays. */
  | { readonly type: "ended"; readonly lines: readonly string[]; readonly cut: boolean; readonly notice?: string }
  | { readonly type: "stop"; readonly notice?: string }
  | { readonly type: "failed"; readonly trouble: Trouble }
  | { readonly type: "accept" | "reject"; readonly block?: number | undefined }
  /** The user changed the lines under review; `rows` are as they stand now. */
  | { readonly type: "edited"; readonly rows: readonly Row[] }
  | { readonly type: "undone" }
  | { readonly type: "revived"; readonly rows: readonly Row[] }
  | { readonly type: "closed" };

/** Before the first question. */
export function startEdit(original: readonly string[]): EditState {
  return {
    phase: "asking",
    original,
    rows: keptRows(original),
    instruction: "",
    turns: [],
    floor: original,
    reach: startReach(original),
    earlier: undefined,
    trouble: undefined,
    notice: "",
    accepted: 0,
    rejected: 0,
    outcome: "",
  };
}

/** The state after an event. An event that makes no sense in this phase changes nothing: the same state comes back. */
export function next(state: EditState, event: Event): EditState {
  switch (event.type) {
    case "ask":
      return state.phase === "asking" || state.phase === "reviewing" ? asked(state, event.instruction) : state;
    case "again":
      return again(state);
    case "arrived":
      return state.phase === "streaming" ? arrived(state, event.lines) : state;
    case "ended":
      return state.phase === "streaming" ? ended(state, event) : state;
    case "stop":
      return state.phase === "streaming" ? stopped(state, event.notice ?? "") : state;
    case "failed":
      return failed(state, event.trouble);
    case "accept":
      return state.phase === "reviewing" ? decided(state, "accept", event.block) : state;
    case "reject":
      return rejected(state, event.block);
    case "edited":
      return edited(state, event.rows);
    case "undone":
      return { ...state, phase: "done", outcome: "undone", rows: keptRows(state.original) };
    case "revived":
      return { ...state, phase: "reviewing", outcome: "", rows: event.rows, earlier: undefined };
    case "closed":
      return { ...state, phase: "done", outcome: "closed" };
  }
}

/** Whether nothing has been proposed yet that is still to be decided. */
function isClean(state: EditState): boolean {
  return blocksOf(state.rows).length === 0;
}

function asked(state: EditState, instruction: string): EditState {
  return {
    ...state,
    phase: "streaming",
    instruction,
    floor: withoutNew(state.rows),
    reach: startReach(withoutOld(state.rows)),
    earlier: state.rows,
    trouble: undefined,
    notice: "",
    outcome: "",
  };
}

function again(state: EditState): EditState {
  if (state.phase === "streaming" || state.instruction === "") return state;
  const rows = state.earlier ?? state.rows;
  const broken = state.earlier !== undefined && state.turns.at(-1)?.unfinished === true;
  const turns = broken ? state.turns.slice(0, -1) : state.turns;
  return asked({ ...state, rows, turns }, state.instruction);
}

function arrived(state: EditState, lines: readonly string[]): EditState {
  const reach = follow(state.reach, lines);
  if (reach === state.reach) return state;
  return { ...state, reach, rows: compare(state.floor, candidate(reach)) };
}

function ended(state: EditState, event: Extract<Event, { type: "ended" }>): EditState {
  const now = event.cut ? arrived(state, event.lines) : state;
  const answer = event.cut ? candidate(now.reach) : event.lines;
  const rows = event.cut ? now.rows : compare(state.floor, event.lines);
  const turn: Turn = { instruction: state.instruction, answer, unfinished: event.cut };
  const notice = event.notice ?? "";
  return settled({ ...now, rows, turns: [...state.turns, turn], notice }, "unchanged");
}

function stopped(state: EditState, notice: string): EditState {
  return settled(withPartialTurn({ ...state, notice }), "stopped");
}

/** What came before the error is kept for review; when nothing came, the question is open again. */
function failed(state: EditState, trouble: Trouble): EditState {
  if (state.phase === "done") return state;
  if (state.reach.lines.length === 0) {
    const phase = isClean(state) ? "asking" : "reviewing";
    return { ...state, phase, trouble };
  }
  return { ...withPartialTurn(state), phase: isClean(state) ? "asking" : "reviewing", trouble };
}

function withPartialTurn(state: EditState): EditState {
  if (state.reach.lines.length === 0) return state;
  const turn: Turn = { instruction: state.instruction, answer: candidate(state.reach), unfinished: true };
  return { ...state, turns: [...state.turns, turn] };
}

function rejected(state: EditState, block: number | undefined): EditState {
  if (state.phase === "reviewing") return decided(state, "reject", block);
  // All of a running edit can be refused at once: it is stopped and gone.
  return state.phase === "streaming" && block === undefined ? decided(state, "reject", undefined) : state;
}

function decided(state: EditState, verdict: "accept" | "reject", block: number | undefined): EditState {
  const count = blocksOf(state.rows).filter((one) => block === undefined || one.id === block).length;
  if (count === 0 && block !== undefined) return state;
  const rows = verdict === "accept" ? accept(state.rows, block) : reject(state.rows, block);
  const counts = verdict === "accept" ? { accepted: state.accepted + count } : { rejected: state.rejected + count };
  return settled({ ...state, ...counts, rows, earlier: undefined }, "rejected");
}

function edited(state: EditState, rows: readonly Row[]): EditState {
  if (state.phase === "done" || state.phase === "asking") return { ...state, rows };
  const now = state.phase === "streaming" ? stopped(state, "Stopped: you changed the lines being edited.") : state;
  return settled({ ...now, phase: "reviewing", rows, earlier: undefined }, "by hand");
}

/** Goes on to the review, or to the end when nothing is left to decide: then `otherwise` says how, unless counts do. */
function settled(state: EditState, otherwise: Outcome): EditState {
  if (!isClean(state)) return { ...state, phase: "reviewing", outcome: "" };
  const { accepted, rejected } = state;
  const counted: Outcome = accepted > 0 ? (rejected > 0 ? "partly accepted" : "accepted") : "rejected";
  return { ...state, phase: "done", outcome: accepted + rejected > 0 ? counted : otherwise };
}
