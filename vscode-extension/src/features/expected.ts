/**
 * How much of the last completion was cached, where no engine counted it: a stream that is stopped early ends before its
 * usage comes. The gateway's account of the request then says what it expected. Pure but for the asking; for the status bar.
 */

import type { Account } from "../api/gateway";
import { contextTokens } from "../context/tokens";
import { lastCompletion } from "./status";
import type { Timeline, Trace } from "./timeline";

/** Asked for once typing rests: the account is written when the request has ended, and only the last one is shown. */
const REST_MS = 400;
const CHARACTERS = 3.5;
/** Tokens of the largest block that is usual: a prediction counts whole ones. */
const BLOCK = 32;

export class Expectations {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asked: number | undefined;
  readonly #listening: { dispose(): void };

  constructor(
    private readonly timeline: Timeline,
    private readonly account: (requestId: string) => Promise<Account | undefined>,
  ) {
    this.#listening = timeline.onChange(() => this.#look());
  }

  dispose(): void {
    this.#listening.dispose();
    clearTimeout(this.#timer);
  }

  #look(): void {
    const last = lastCompletion(this.timeline.all());
    if (last === undefined || last.id === this.#asked || !isMissing(last)) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#ask(last), REST_MS);
    this.#timer.unref?.();
  }

  async #ask(trace: Trace): Promise<void> {
    if (trace.requestId === undefined || !isMissing(trace)) return;
    this.#asked = trace.id;
    // What is wrong with the server is met elsewhere. It knows nothing yet of a request that still runs: the end of that one
    // is news, and then it is asked again.
    const account = await this.account(trace.requestId).catch(() => undefined);
    if (account === undefined && this.#asked === trace.id) this.#asked = undefined;
    const expected = account && expectedOf(trace, account, this.timeline.all());
    if (expected !== undefined) this.timeline.update(trace, { expected });
  }
}

/** Only a request with context of the server's has an expectation. */
function isMissing(trace: Trace): boolean {
  const known = trace.usage !== undefined || trace.expected !== undefined;
  return !known && trace.requestId !== undefined && (contextTokens(trace.context) ?? 0) > 0;
}

/**
 * Cached tokens, and those of the prompt. The server's part is told; the request's own is estimated from its characters, and of
 * it what the request before began with (`Trace.repeated`) was cached if all in front of it was: engines keep whole blocks, from
 * the beginning. Approximate where a model's family wants the suffix in front of all: `repeated` has it behind the lines above.
 */
export function expectedOf(trace: Trace, { context }: Account, traces: readonly Trace[]): Trace["expected"] {
  const told = context?.cachedTokens ?? context?.predictedCached;
  if (told === undefined) return undefined;
  const perToken = charactersPerToken(trace.model, traces);
  const head = contextTokens(trace.context) ?? 0;
  const prompt = context?.promptTokens ?? head + Math.ceil((trace.characters ?? 0) / perToken);
  const own = context?.cachedTokens === undefined && told > head - BLOCK ? (trace.repeated ?? 0) / perToken : 0;
  return prompt <= 0 ? undefined : { cached: Math.min(Math.floor(told + own), prompt), prompt };
}

/** By the newest request of this model that was counted. */
function charactersPerToken(model: string, newestFirst: readonly Trace[]): number {
  for (const { model: other, usage, context, characters } of newestFirst) {
    const own = usage === undefined ? 0 : usage.prompt - (contextTokens(context) ?? 0);
    if (other === model && characters !== undefined && own > 0) return Math.min(8, Math.max(1, characters / own));
  }
  return CHARACTERS;
}
