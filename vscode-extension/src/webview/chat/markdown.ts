/**
 * An answer's Markdown, drawn while it streams in. What is finished (all top-level blocks but the last) is drawn once and
 * left alone; only the open end is parsed and drawn again, and a long open code block is just appended to. However the
 * text was cut into pieces, the result is the same as if it had been drawn at once.
 */

import type { Env, Token } from "markdown-it";
import { draw, parseBlocks, withoutHalfFence } from "./blocks";
import { highlighted } from "./highlight";
import { Items } from "./items";
import { fenceInfo } from "./links";
import { morph } from "./morph";

/** Colours for open code may cost one part in so many of the time, and longer open code gets none until it is whole. */
const COLOUR_SHARE = 20;
const OPEN_COLOURED = 20_000;

interface OpenCode {
  readonly element: Element;
  readonly info: string;
  text: string;
  /** When colours were last made, and how long that took: `performance.now()`, milliseconds. */
  at: number;
  took: number;
}

export class Markdown {
  readonly element = document.createElement("div");
  /** Line ends made `\n`. */
  #source = "";
  #done = false;
  /** How much of the source is in elements that will not change, how many those are, and their code blocks. */
  #closed = 0;
  #closedNodes = 0;
  #closedBlocks = 0;
  #environment: Env = {};
  #open: OpenCode | undefined;
  readonly #items = new Items();

  constructor(private readonly now: () => number = () => performance.now()) {
    this.element.className = "markdown";
  }

  /** Show `text`, all that there is up to now; `done`: no more will come. */
  update(text: string, done: boolean): void {
    const source = normalised(text);
    if (source === this.#source && done === this.#done) return;
    if (!source.startsWith(this.#source)) this.#restart();
    const finishing = done && !this.#done;
    this.#source = source;
    this.#done = done;
    this.#grow(done);
    // A definition such as `[1]: https://…` changes links above it.
    if (finishing && this.#environment.references) {
      this.#restart();
      this.#source = source;
      this.#grow(done);
    }
  }

  #restart(): void {
    this.#source = "";
    this.#closed = 0;
    this.#closedNodes = 0;
    this.#closedBlocks = 0;
    this.#environment = {};
    this.#open = undefined;
    this.#items.forget();
  }

  #grow(done: boolean): void {
    const tail = this.#source.slice(this.#closed);
    const environment = this.#environment;
    const tokens = parseBlocks(tail, environment);
    const only = tokens.length === 1 ? tokens[0] : undefined;
    if (!done && only?.type === "fence" && this.#append(only)) return;
    const cut = done ? undefined : closedEnd(tokens, tail);
    const closing = { environment, blocks: this.#closedBlocks, open: false };
    const fresh = draw(cut ? tokens.slice(0, cut.token) : [], closing);
    const closedNodes = fresh.childNodes.length;
    const closedBlocks = closing.blocks;
    const rest = cut ? tokens.slice(cut.token) : tokens;
    const present = done ? new Set<number>() : this.#items.seen(rest, tail, this.#closed, closedBlocks);
    fresh.append(draw(rest, { environment, blocks: closedBlocks, open: !done, present }));
    morph(this.element, this.#closedNodes, fresh);
    this.#closed += cut?.offset ?? 0;
    this.#closedNodes += closedNodes;
    this.#closedBlocks = closedBlocks;
    this.#open = done ? undefined : this.#opened(rest);
  }

  #opened(rest: readonly Token[]): OpenCode | undefined {
    const fence = rest.length === 1 ? rest[0] : undefined;
    const element = this.element.lastElementChild?.querySelector("pre > code");
    if (fence?.type !== "fence" || !element) return undefined;
    return { element, info: fence.info, text: withoutHalfFence(fence.content), at: this.now(), took: 1 };
  }

  /** The open code has grown: true where that was all. */
  #append(fence: Token): boolean {
    const open = this.#open;
    const text = withoutHalfFence(fence.content);
    if (!open || open.info !== fence.info || !text.startsWith(open.text)) return false;
    const more = text.slice(open.text.length);
    open.text = text;
    if (more === "") return true;
    const last = open.element.lastChild;
    if (last instanceof Text) last.appendData(more);
    else open.element.append(more);
    const began = this.now();
    if (text.length < OPEN_COLOURED && began - open.at > COLOUR_SHARE * open.took) {
      open.element.replaceChildren(...highlighted(text, fenceInfo(fence.info).language));
      open.at = this.now();
      open.took = Math.max(1, open.at - began);
    }
    return true;
  }
}

/** Where the blocks end that no later text can change; undefined: there are none. */
function closedEnd(tokens: readonly Token[], text: string): { token: number; offset: number } | undefined {
  const starts = tokens.flatMap((token, index) =>
    token.level === 0 && token.nesting >= 0 && token.type !== "inline" && token.map
      ? [{ index, line: token.map[0] }]
      : [],
  );
  // A block counts as begun once its first line is whole: until then `-` may be a list, a heading's underline or a rule.
  const whole = lineStart(text, (starts.at(-1)?.line ?? 0) + 1) !== undefined;
  const open = starts.at(whole ? -1 : -2);
  if (!open || open.index === 0) return undefined;
  return { token: open.index, offset: lineStart(text, open.line) ?? 0 };
}

/** Where a line begins; undefined: the text has not come so far. */
function lineStart(text: string, line: number): number | undefined {
  let at = 0;
  for (let passed = 0; passed < line; passed++) {
    const end = text.indexOf("\n", at);
    if (end < 0) return undefined;
    at = end + 1;
  }
  return at;
}

function normalised(text: string): string {
  return text.replace(/\r\n?/g, "\n");
}
