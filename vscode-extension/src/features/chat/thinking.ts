/** Tells a model's thoughts from its answer where the server does not: `<think>` at the beginning of the text. */

const OPEN = "<think>";
const CLOSE = "</think>";

export interface Parted {
  readonly text: string;
  readonly reasoning: string;
}

/** Fed piece by piece; what might become a tag waits for the next piece. */
export class Thinking {
  #state: "begin" | "thinking" | "answer" = "begin";
  #held = "";

  add(piece: string): Parted {
    this.#held += piece;
    let reasoning = "";
    if (this.#state === "begin") {
      const start = this.#held.trimStart();
      if (start.startsWith(OPEN)) {
        this.#state = "thinking";
        this.#held = start.slice(OPEN.length).trimStart();
      } else if (OPEN.startsWith(start)) return { text: "", reasoning: "" };
      else this.#state = "answer";
    }
    if (this.#state === "thinking") {
      const end = this.#held.indexOf(CLOSE);
      if (end >= 0) {
        reasoning = this.#held.slice(0, end).trimEnd();
        this.#held = this.#held.slice(end + CLOSE.length);
        this.#state = "answer";
        this.#blank = true;
      } else {
        const safe = this.#held.length - overlap(this.#held, CLOSE);
        reasoning = this.#held.slice(0, safe);
        this.#held = this.#held.slice(safe);
        return { text: "", reasoning };
      }
    }
    return { text: this.#answer(), reasoning };
  }

  /** What was still held back when the stream ended. */
  end(): Parted {
    const held = this.#held;
    this.#held = "";
    return this.#state === "thinking"
      ? { text: "", reasoning: held }
      : { text: this.#blank ? "" : held, reasoning: "" };
  }

  /** Blanks between the thoughts and the answer belong to neither. */
  #blank = false;

  #answer(): string {
    const text = this.#blank ? this.#held.trimStart() : this.#held;
    this.#held = "";
    if (text !== "") this.#blank = false;
    return text;
  }
}

/** How many characters at the end of `text` may begin `tag`. */
function overlap(text: string, tag: string): number {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(tag.slice(0, length))) return length;
  }
  return 0;
}
