/** Brings the document's lines in step with an edit's rows, and notices who else changes them. Knows no editor. */

import { keptRows, type Row, textOf, withoutNew } from "./diff";
import { sameLines, standsAt } from "./lines";
import { afterEdits, planEdits, type TextChange } from "./plan";
import { track } from "./track";

export type Applied =
  | "applied"
  | "refused" // the document had changed meanwhile: plan again
  | "hidden"; // no editor shows it: later

/** One document, as far as an edit needs it. */
export interface Surface {
  readonly eol: string;
  /** Undefined: it is closed. */
  lines(): readonly string[] | undefined;
  /** `before`, `after`: whether an undo step ends there. */
  apply(changes: readonly TextChange[], undo: { readonly before: boolean; readonly after: boolean }): Promise<Applied>;
}

export interface Changed {
  readonly changes: readonly TextChange[];
  readonly reason: "undo" | "redo" | undefined;
}

export type Noticed =
  | { readonly kind: "ours" | "outside" }
  /** Others changed lines of the part: these are the rows now. */
  | { readonly kind: "inside"; readonly rows: readonly Row[] }
  /** Undo or redo brought back a state of before. */
  | { readonly kind: "back"; readonly rows: readonly Row[] };

interface Expected {
  readonly lines: readonly string[];
  readonly rows: readonly Row[];
  /** An undo step ends with it. */
  readonly closing: boolean;
  /** Made by a saving, not by us. */
  readonly saving?: true;
}

const MOST_SNAPSHOTS = 20;

export class Painter {
  #start: number;
  #shown: readonly Row[];
  /** What the document is to be when the edits that are under way have been applied: ours, and those of a saving. */
  #expected: readonly Expected[] = [];
  /** Our last change and the next one are one undo step, as nobody has changed anything since. */
  #open = false;
  /** All of our changes so far are one undo step. */
  #single = true;
  #painted = false;
  /** Rows at the ends of undo steps: what undo and redo can bring back. */
  #snapshots: readonly (readonly Row[])[];

  constructor(
    private readonly surface: Surface,
    start: number,
    private readonly original: readonly string[],
  ) {
    this.#start = start;
    this.#shown = keptRows(original);
    this.#snapshots = [this.#shown];
  }

  get start(): number {
    return this.#start;
  }

  /** The rows as they stand in the document now. */
  get shown(): readonly Row[] {
    return this.#shown;
  }

  /** Shows these rows. `unchanged`: the editor took the edits and did nothing, as a read-only one does. */
  async show(rows: readonly Row[], closing: boolean, apart = false): Promise<Applied | "unchanged" | "closed"> {
    const document = this.surface.lines();
    if (document === undefined) return "closed";
    const wanted = textOf(rows);
    const edits = planEdits(document, this.#start, this.#shown.length, wanted, this.surface.eol);
    if (edits.length === 0) {
      this.#shown = rows;
      return "applied";
    }
    const lines = afterEdits(document, this.#start, this.#shown.length, wanted);
    const expected: Expected = { lines, rows, closing };
    this.#expected = [...this.#expected, expected];
    const result = await this.surface.apply(edits, { before: apart || !this.#open, after: closing });
    const landed = !this.#expected.includes(expected);
    this.#expected = this.#expected.filter((one) => one !== expected);
    if (result !== "applied" || landed || this.#land(expected)) return result;
    const now = this.surface.lines();
    return now !== undefined && sameLines(now, document) ? "unchanged" : "refused";
  }

  /**
   * The last change: afterwards one undo brings back the original. When others have changed something since our first
   * change, the original is put back and then replaced in a step of its own.
   */
  async settle(rows: readonly Row[]): Promise<Applied | "unchanged" | "closed"> {
    const back = this.#painted && !this.#single && !sameLines(textOf(rows), this.original);
    if (back && !sameLines(textOf(this.#shown), this.original)) {
      const result = await this.show(keptRows(this.original), true, true);
      if (result !== "applied") return result;
    }
    return this.show(rows, true, back);
  }

  /** To be called at each change of the document, ours too. */
  noticed(event: Changed): Noticed {
    const landed = this.#expected.find((expected) => this.#land(expected));
    if (landed !== undefined) {
      this.#expected = this.#expected.filter((one) => one !== landed);
      return { kind: "ours" };
    }
    this.#breakStep();
    const back = event.reason === undefined ? undefined : this.#broughtBack(event.changes);
    if (back !== undefined) {
      this.#shown = back;
      return { kind: "back", rows: back };
    }
    const lines = () => this.surface.lines() ?? [];
    const tracked = track({ start: this.#start, rows: this.#shown }, event.changes, lines);
    this.#start = tracked.start;
    this.#shown = tracked.rows;
    return tracked.inside ? { kind: "inside", rows: tracked.rows } : { kind: "outside" };
  }

  /** Edits for the moment of saving: the file gets the lines without what is still to be decided. */
  beforeSave(rows: readonly Row[]): readonly TextChange[] {
    const document = this.surface.lines();
    if (document === undefined) return [];
    this.#snapshot();
    const saved = keptRows(withoutNew(rows));
    const wanted = textOf(saved);
    const edits = planEdits(document, this.#start, this.#shown.length, wanted, this.surface.eol);
    const lines = afterEdits(document, this.#start, this.#shown.length, wanted);
    if (edits.length > 0) this.#expected = [...this.#expected, { lines, rows: saved, closing: true, saving: true }];
    return edits;
  }

  /** Saving ends an undo step. */
  saved(): void {
    this.#expected = this.#expected.filter((one) => !one.saving);
    this.#breakStep();
  }

  /** So does a cursor that somebody moves. */
  moved(): void {
    this.#breakStep();
  }

  /** Whether the expected edit stands in the document; then it is what is shown. */
  #land(expected: Expected): boolean {
    const now = this.surface.lines();
    if (now === undefined || !sameLines(now, expected.lines)) return false;
    this.#shown = expected.rows;
    this.#painted = true;
    this.#open = !expected.closing;
    if (expected.closing) this.#snapshot();
    return true;
  }

  #breakStep(): void {
    if (this.#open) this.#snapshot();
    if (this.#painted) this.#single = false;
    this.#open = false;
  }

  #snapshot(): void {
    const last = this.#snapshots.at(-1);
    if (last !== undefined && sameLines(textOf(last), textOf(this.#shown))) return;
    const [first = this.#shown, ...others] = this.#snapshots;
    this.#snapshots = [first, ...others.slice(1 - MOST_SNAPSHOTS), this.#shown];
  }

  /** The state of before that these changes, of undo or redo, have brought back between the lines around the part. */
  #broughtBack(changes: readonly TextChange[]): readonly Row[] | undefined {
    const document = this.surface.lines() ?? [];
    const grown = changes.reduce((sum, change) => sum + breaksIn(change.text) - (change.endLine - change.startLine), 0);
    const length = this.#shown.length + grown;
    if (length === this.#shown.length && standsAt(document, this.#start, textOf(this.#shown))) return undefined;
    return [...this.#snapshots]
      .reverse()
      .find((rows) => rows.length === length && standsAt(document, this.#start, textOf(rows)));
  }
}

function breaksIn(text: string): number {
  return text.split(/\r\n|\r|\n/).length - 1;
}
