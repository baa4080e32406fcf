/** The chips under the question being written: read as soon as they are there, so that their size is known before asking. */

import { isAbort } from "../../api/fault";
import type { Typed } from "../../context/mentions";
import type { Block } from "./conversation";
import type { Surroundings } from "./desk";
import { faultView } from "./faults";
import type { Mention } from "./protocol";

const MOST = 24;

export class Chips {
  readonly #chips = new Map<string, Mention>();
  readonly #reading = new Map<string, AbortController>();

  constructor(
    private readonly surroundings: Surroundings,
    private readonly tokens: (text: string) => number,
    /** Something changed. */
    private readonly changed: () => void,
  ) {}

  get all(): readonly Mention[] {
    return [...this.#chips.values()];
  }

  /** False: there is no room for another, or it means nothing. */
  add(id: string): boolean {
    if (this.#chips.has(id)) return true;
    const mention = this.surroundings.mention(id);
    if (mention === undefined || this.#chips.size >= MOST) return false;
    this.#chips.set(id, mention);
    const abort = new AbortController();
    this.#reading.set(id, abort);
    void readMention(this.surroundings, mention, "", this.tokens, abort.signal).then((read) => {
      if (this.#reading.get(id) !== abort) return;
      this.#reading.delete(id);
      this.#chips.set(id, read.mention);
      this.changed();
    });
    this.changed();
    return true;
  }

  remove(id: string): void {
    this.#reading.get(id)?.abort();
    this.#reading.delete(id);
    if (this.#chips.delete(id)) this.changed();
  }

  clear(): void {
    for (const abort of this.#reading.values()) abort.abort();
    this.#reading.clear();
    if (this.#chips.size === 0) return;
    this.#chips.clear();
    this.changed();
  }
}

export interface Read {
  readonly mention: Mention;
  /** Undefined: it cannot be sent; the mention's `problem` says why. */
  readonly block: Block | undefined;
}

/** Never throws: what cannot be read says so on its chip. */
export async function readMention(
  surroundings: Surroundings,
  mention: Mention,
  question: string,
  tokens: (text: string) => number,
  signal: AbortSignal,
): Promise<Read> {
  const { tokens: _, problem: __, ...plain } = mention;
  // Which passages of documentation, is known when the question is.
  if (mention.kind === "docs" && question === "") return { mention: { ...plain, tokens: 0 }, block: undefined };
  try {
    const block = await surroundings.read(mention.id, question, signal);
    const size = tokens(block.text);
    return { mention: { ...plain, tokens: size, ...(block.note && { problem: block.note }) }, block };
  } catch (error) {
    if (isAbort(error)) return { mention: plain, block: undefined };
    return { mention: { ...plain, tokens: 0, problem: faultView(error).message }, block: undefined };
  }
}

/** The mentions of chips, then those that were typed; the typed ones that mean nothing say so. */
export async function mentionsFor(
  surroundings: Surroundings,
  ids: readonly string[],
  typed: readonly Typed[],
): Promise<readonly Mention[]> {
  const found = new Map<string, Mention>();
  for (const id of ids.slice(0, MOST)) {
    const mention = surroundings.mention(id);
    if (mention !== undefined) found.set(id, mention);
  }
  for (const each of typed) {
    const id = await surroundings.find(each);
    const mention = id === undefined ? unknown(each) : surroundings.mention(id);
    if (mention !== undefined && !found.has(mention.id)) found.set(mention.id, mention);
  }
  return [...found.values()].slice(0, MOST);
}

function unknown(typed: Typed): Mention | undefined {
  // "@file of" may be a sentence; what is quoted or looks like a path was meant.
  if (typed.loose && !/[./\\]/.test(typed.argument)) return undefined;
  const label = typed.argument === "" ? `@${typed.kind}` : typed.argument;
  return {
    id: `?${typed.kind}:${label}`,
    kind: typed.kind,
    label,
    detail: label,
    tokens: 0,
    problem: nothingFor(typed),
  };
}

function nothingFor(typed: Typed): string {
  if (typed.argument !== "") return `There is no ${typed.kind} "${typed.argument}" here. Nothing was sent for it.`;
  switch (typed.kind) {
    case "selection":
      return "Nothing is selected. Nothing was sent for it.";
    case "terminal":
      return "No output of a terminal is known. Run a command in a terminal with shell integration, or select its output.";
    case "file":
      return "No file is open. Nothing was sent for it.";
    default:
      return "Nothing was found for it, so nothing was sent.";
  }
}
