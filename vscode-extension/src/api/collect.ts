/** Reads a streamed answer to its end: for those who show the whole text so far. */

import type { Stream, Usage } from "./gateway";

/** A streamed answer, read to its end. */
export interface Collected {
  readonly text: string;
  readonly usage?: Usage;
  /** `stop`, `length`, …; undefined: the server did not tell. */
  readonly finish?: string;
}

/** The first candidate's text. `onText` hears all of it so far at each piece. Throws what the stream throws. */
export async function collect(stream: Stream, onText?: (all: string) => void): Promise<Collected> {
  let text = "";
  let usage: Usage | undefined;
  let finish: string | undefined;
  for await (const piece of stream) {
    if (piece.usage !== undefined) usage = piece.usage;
    if (piece.index !== 0) continue;
    if (piece.finish !== undefined) finish = piece.finish;
    if (piece.text === "") continue;
    text += piece.text;
    onText?.(text);
  }
  return { text, ...(usage !== undefined && { usage }), ...(finish !== undefined && { finish }) };
}
