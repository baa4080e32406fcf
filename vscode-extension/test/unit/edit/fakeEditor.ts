/** A document with undo steps as the editor has them: edits join the last step until a stop is set. */

import { splitLines } from "../../../src/features/edit/lines";
import type { Applied, Changed, Surface } from "../../../src/features/edit/painter";
import { planEdits, type TextChange } from "../../../src/features/edit/plan";

interface Step {
  readonly before: string;
  after: string;
  open: boolean;
}

/** The text after changes that are all meant for the text before, as the editor takes them. */
export function changed(text: string, changes: readonly TextChange[], eol: string): string {
  const lines = text.split(eol);
  const offset = (line: number, character: number) =>
    lines.slice(0, line).reduce((sum, one) => sum + one.length + eol.length, 0) + character;
  return changes
    .map((change) => ({
      from: offset(change.startLine, change.startCharacter),
      to: offset(change.endLine, change.endCharacter),
      text: change.text,
    }))
    .sort((one, other) => other.from - one.from || other.to - one.to)
    .reduce((now, one) => now.slice(0, one.from) + one.text + now.slice(one.to), text);
}

export class FakeEditor implements Surface {
  visible = true;
  readOnly = false;
  closed = false;
  applied = 0;
  #undo: Step[] = [];
  #redo: Step[] = [];
  #version = 0;
  listener: (event: Changed) => void = () => {};

  constructor(
    public text: string,
    readonly eol = "\n",
  ) {}

  lines(): readonly string[] | undefined {
    return this.closed ? undefined : this.text.split(this.eol);
  }

  async apply(changes: readonly TextChange[], undo: { before: boolean; after: boolean }): Promise<Applied> {
    const version = this.#version;
    await Promise.resolve();
    if (!this.visible) return "hidden";
    if (version !== this.#version) return "refused";
    if (this.readOnly) return "applied";
    this.applied++;
    if (undo.before) this.#stop();
    this.#push(changes);
    if (undo.after) this.#stop();
    return "applied";
  }

  /** As a cursor that is moved. */
  endStep(): void {
    this.#stop();
  }

  /** As the user types, a step of its own. */
  type(line: number, character: number, text: string, endLine = line, endCharacter = character): void {
    this.#stop();
    this.#push([{ startLine: line, startCharacter: character, endLine, endCharacter, text }]);
  }

  /** As the editor takes the edits of those who wait for a saving. */
  save(changes: readonly TextChange[]): string {
    this.#stop();
    if (changes.length > 0) this.#push(changes);
    this.#stop();
    return this.text;
  }

  undo(): void {
    const step = this.#undo.pop();
    if (step === undefined) return;
    this.#redo.push(step);
    this.#become(step.before, "undo");
  }

  redo(): void {
    const step = this.#redo.pop();
    if (step === undefined) return;
    this.#undo.push({ ...step, open: false });
    this.#become(step.after, "redo");
  }

  #stop(): void {
    const last = this.#undo.at(-1);
    if (last !== undefined) last.open = false;
  }

  #push(changes: readonly TextChange[]): void {
    const before = this.text;
    this.text = changed(before, changes, this.eol);
    this.#redo = [];
    const last = this.#undo.at(-1);
    if (last?.open) last.after = this.text;
    else this.#undo.push({ before, after: this.text, open: true });
    this.#version++;
    this.listener({ changes: changes.toReversed(), reason: undefined });
  }

  #become(text: string, reason: "undo" | "redo"): void {
    const old = splitLines(this.text);
    const changes = planEdits(old, 0, old.length, splitLines(text), this.eol);
    this.text = text;
    this.#version++;
    this.listener({ changes: changes.toReversed(), reason });
  }
}
