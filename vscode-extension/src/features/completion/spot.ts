/** A place where a completion is asked for, and what is sent of it. */

import type { Place } from "../../api/gateway";
import { type Anchor, type Source, type Window, windowAt } from "../../context/window";
import { type Indent, type Multiline, type Where, whereOf } from "./where";

/** Characters of the cells above. */
const PREAMBLE = 8_000;

/** An item of the editor's own suggest list that is selected: the completion must go on behind it. */
export interface Selected {
  readonly text: string;
  /** The range on the cursor's line that it takes the place of. */
  readonly start: number;
  readonly end: number;
}

export interface Ask {
  readonly uri: string;
  /** For people: the file's name and line. */
  readonly what: string;
  readonly language: string;
  readonly source: Source;
  readonly line: number;
  /** UTF-16 units before the cursor on its line. */
  readonly character: number;
  readonly place?: Place;
  /** Text that belongs before the document: the cells above this one in a notebook. */
  readonly preamble?: string;
  readonly selected?: Selected;
  readonly indent?: Indent;
  /** By key: several candidates, and no pause is kept. */
  readonly explicit: boolean;
  /** By the session's clock: the keystroke. */
  readonly began: number;
}

/** An ask with its windows; the rest is worked out when it is needed. */
export class Spot {
  readonly prefix: string;
  readonly suffix: string;
  readonly anchor: Anchor;
  /** Keeps apart what must not be mixed: documents, models, settings. */
  readonly seed: string;
  #where: Where | undefined;

  constructor(
    readonly ask: Ask,
    readonly model: string,
    private readonly multiline: Multiline,
    previous: Anchor | undefined,
  ) {
    const window = windowOf(ask, previous);
    const isWhole = window.anchor.line === 0 && window.anchor.column === 0;
    this.prefix = isWhole ? (ask.preamble ?? "") + window.prefix : window.prefix;
    this.suffix = window.suffix;
    this.anchor = window.anchor;
    this.seed = `${ask.uri}\n${model}\n${multiline}`;
  }

  get where(): Where {
    this.#where ??= whereOf(this.prefix, this.suffix, this.ask.language, this.multiline, this.ask.indent);
    return this.#where;
  }

  /** Behind the cursor, on its line. */
  get after(): string {
    const end = this.suffix.indexOf("\n");
    return end < 0 ? this.suffix : this.suffix.slice(0, end);
  }
}

/** With a selected item the document is taken as if it were accepted. */
function windowOf(ask: Ask, previous: Anchor | undefined): Window {
  const { source, selected, line, character } = ask;
  if (selected === undefined) return windowAt(source, line, character, previous);
  const own = source.line(line);
  const accepted = own.slice(0, selected.start) + selected.text + own.slice(selected.end);
  const changed: Source = {
    lineCount: source.lineCount,
    line: (index) => (index === line ? accepted : source.line(index)),
  };
  return windowAt(changed, line, selected.start + selected.text.length, previous);
}

/** The cells above one in a notebook, the nearest whole ones, as the text before it. */
export function preambleOf(cells: readonly string[]): string {
  let text = "";
  for (let index = cells.length - 1; index >= 0; index--) {
    const cell = `${(cells[index] ?? "").replace(/\r\n?/g, "\n").trimEnd()}\n\n`;
    if (text.length + cell.length > PREAMBLE) break;
    text = cell + text;
  }
  return text;
}

/** Whether the selected item goes on from what is typed; if not, no completion can be shown beside it. */
export function fitsSelected(ask: Ask): boolean {
  const { selected } = ask;
  if (selected === undefined) return true;
  const typed = ask.source.line(ask.line).slice(selected.start, ask.character);
  return selected.start <= ask.character && !selected.text.includes("\n") && selected.text.startsWith(typed);
}
