/** What the editor shows of an edit: which lines are old and new, and what can be clicked where. */

import { blocksOf, type Row } from "./diff";
import type { EditState } from "./session";

/** Lines of the document, first and last included. */
export interface Span {
  readonly first: number;
  readonly last: number;
}

/** Something to click above a line. */
export interface Lens {
  readonly line: number;
  readonly title: string;
  /** Empty: it only says something. */
  readonly command: string;
  readonly block?: number;
}

export interface View {
  readonly phase: EditState["phase"];
  /** All lines of the part; undefined when none is left. */
  readonly part: Span | undefined;
  readonly old: readonly Span[];
  readonly new: readonly Span[];
  readonly lenses: readonly Lens[];
  /** Blocks to be decided. */
  readonly pending: number;
}

/** The view of `rows` where they stand now; they may be a little behind `state` while the document is being changed. */
export function viewOf(state: EditState, start: number, rows: readonly Row[], mac: boolean): View {
  const blocks = state.phase === "done" ? [] : blocksOf(rows);
  const part = rows.length > 0 ? { first: start, last: start + rows.length - 1 } : undefined;
  return {
    phase: state.phase,
    part,
    old: spans(rows, "old", start),
    new: spans(rows, "new", start),
    lenses: lensesOf(state, start, blocks, mac),
    pending: blocks.length,
  };
}

function spans(rows: readonly Row[], kind: Row["kind"], start: number): readonly Span[] {
  const found: Span[] = [];
  rows.forEach((row, at) => {
    if (row.kind !== kind) return;
    const last = found.at(-1);
    if (last !== undefined && last.last === start + at - 1) found[found.length - 1] = { ...last, last: start + at };
    else found.push({ first: start + at, last: start + at });
  });
  return found;
}

function lensesOf(state: EditState, start: number, blocks: ReturnType<typeof blocksOf>, mac: boolean): readonly Lens[] {
  if (state.phase === "streaming") {
    // Always the same words: the editor asks for new ones only once the text has stood still for a while.
    return [
      { line: start, title: "$(loading~spin) Editing…", command: "" },
      { line: start, title: "Stop (Escape)", command: "aicockpit.edit.stop" },
    ];
  }
  if (state.phase !== "reviewing" || blocks.length === 0) return [];
  const key = mac ? "Cmd" : "Ctrl";
  return [
    { line: start, title: `$(check-all) Accept All (${key}+Enter)`, command: "aicockpit.edit.acceptAll" },
    { line: start, title: `$(discard) Reject All (${key}+Backspace)`, command: "aicockpit.edit.rejectAll" },
    { line: start, title: "$(comment) Follow Up", command: "aicockpit.edit.followUp" },
    ...blocks.flatMap((block) => blockLenses(start + block.first, block.id)),
  ];
}

function blockLenses(line: number, block: number): readonly Lens[] {
  return [
    { line, title: "$(check) Accept", command: "aicockpit.edit.accept", block },
    { line, title: "$(discard) Reject", command: "aicockpit.edit.reject", block },
  ];
}

/** The whole lines of a selection; a selection that ends at a line's beginning leaves that line out. Nothing: all lines. */
export function wholeLines(
  selection: { startLine: number; startCharacter: number; endLine: number; endCharacter: number },
  lineCount: number,
): { readonly span: Span; readonly whole: boolean } {
  const { startLine, startCharacter, endLine, endCharacter } = selection;
  const empty = startLine === endLine && startCharacter === endCharacter;
  if (empty) return { span: { first: 0, last: Math.max(0, lineCount - 1) }, whole: true };
  const last = endCharacter === 0 && endLine > startLine ? endLine - 1 : endLine;
  return { span: { first: startLine, last: Math.min(last, lineCount - 1) }, whole: false };
}
