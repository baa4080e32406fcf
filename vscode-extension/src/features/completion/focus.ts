/** Tells the server which file is open and where, so that it warms what belongs there: seldom, and only when it matters. */

/** At most one call a second; within a file only after a walk of this many lines. */
const EVERY_MS = 1_000;
const LINES = 32;

export class Focus {
  #file = "";
  #line = 0;
  #at = Number.NEGATIVE_INFINITY;
  #later: ReturnType<typeof setTimeout> | undefined;

  constructor(
    /** Lines from 1, as the server counts them. */
    private readonly tell: (workspace: string, path: string, line: number) => void,
    private readonly clock: () => number,
  ) {}

  /** The cursor is here now, in lines from 0. A second file within the same second is told of when the second is over. */
  at(workspace: string, path: string, line: number): void {
    const file = `${workspace}\n${path}`;
    clearTimeout(this.#later);
    if (file === this.#file && Math.abs(line - this.#line) <= LINES) return;
    const wait = this.#at + EVERY_MS - this.clock();
    if (wait > 0) {
      this.#later = setTimeout(() => this.at(workspace, path, line), wait);
      return;
    }
    this.#file = file;
    this.#line = line;
    this.#at = this.clock();
    this.tell(workspace, path, line + 1);
  }

  /** Say it again at the next occasion: the server may have forgotten. */
  forget(): void {
    this.#file = "";
  }

  dispose(): void {
    clearTimeout(this.#later);
  }
}
