/** Going through the questions asked before, as a shell does. */

export class Recall {
  /** From the newest; -1: none is shown. */
  #back = -1;

  /** The question before; undefined: leave the text alone, it is the person's own or there is none. */
  older(text: string, questions: readonly string[]): string | undefined {
    if (!this.#mine(text, questions)) return undefined;
    const next = questions.at(-1 - (this.#back + 1));
    if (next === undefined || this.#back + 1 >= questions.length) return undefined;
    this.#back++;
    return next;
  }

  /** The question after; empty behind the newest. */
  newer(text: string, questions: readonly string[]): string | undefined {
    if (this.#back < 0 || !this.#mine(text, questions)) return undefined;
    this.#back--;
    return this.#back < 0 ? "" : questions.at(-1 - this.#back);
  }

  #mine(text: string, questions: readonly string[]): boolean {
    if (text === "") this.#back = -1;
    else if (this.#back < 0 || questions.at(-1 - this.#back) !== text) return false;
    return true;
  }
}
