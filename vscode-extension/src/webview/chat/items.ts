/** Which items of a long list that still grows are on the screen already, so that they need not be drawn again. */

import type { Token } from "markdown-it";
import { isCode, itemEnd } from "./blocks";

const NONE: ReadonlySet<number> = new Set();

export class Items {
  /** Where in the answer the list begins, and what kind it is. */
  #list = "";
  #keys: readonly string[] = [];

  /**
   * The items at these places are as they were when this was last called. `tokens` begin with the list; `text` is what
   * they were parsed from; `at` is its place in the answer; `blocks` counts the code blocks before.
   */
  seen(tokens: readonly Token[], text: string, at: number, blocks: number): ReadonlySet<number> {
    const first = tokens[0];
    if (first?.type !== "bullet_list_open" && first?.type !== "ordered_list_open") {
      this.forget();
      return NONE;
    }
    const starts = lineStarts(text);
    const begin = at + (starts[first.map?.[0] ?? 0] ?? 0);
    const list = `${begin} ${first.type} ${JSON.stringify(first.attrs)}`;
    const keys = keysOf(tokens, text, starts, blocks);
    const before = list === this.#list ? this.#keys : [];
    this.#list = list;
    this.#keys = keys.slice(0, -1); // the last one is still being written, and drawn in another way
    return new Set([...keys.keys()].flatMap((index) => (keys[index] === before[index] ? [index] : [])));
  }

  forget(): void {
    this.#list = "";
    this.#keys = [];
  }
}

/** An item looks the same when its text, its list's looseness and its code blocks' numbers are the same. */
function keysOf(tokens: readonly Token[], text: string, starts: readonly number[], blocks: number): string[] {
  const keys: string[] = [];
  let count = blocks;
  for (let index = 1; index < tokens.length && tokens[index]?.level === 1; ) {
    const end = itemEnd(tokens, index);
    const inside = tokens.slice(index, end);
    const [from, to] = tokens[index]?.map ?? [0, 0];
    const tight = inside.find((token) => token.type === "paragraph_open" && token.level === 2)?.hidden;
    keys.push(`${tight} ${count} ${text.slice(starts[from], starts[to])}`);
    count += inside.filter(isCode).length;
    index = end + 1;
  }
  return keys;
}

function lineStarts(text: string): number[] {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return starts;
}
