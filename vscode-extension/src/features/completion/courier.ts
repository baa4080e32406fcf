/** Sends the requests of a session and reads their streams, one at a time; says in a trace what became of each. */

import { Fault, isAbort } from "../../api/fault";
import type { CompletionRequest, Gateway, Piece, Stream } from "../../api/gateway";
import type { Timeline, Trace } from "../timeline";
import { Flight } from "./flight";
import { type Settled, settle } from "./settle";
import type { Spot } from "./spot";
import { stopAt } from "./stop";

export interface CourierParts {
  readonly gateway: Gateway;
  readonly timeline: Timeline;
  /** Milliseconds, `performance.now`. */
  readonly clock: () => number;
  /** Unique for this window of the editor: a newer request in it supersedes the older one at the engine. */
  readonly slot: string;
  /** Told of each fault, and of each success (undefined). */
  readonly met: (error: unknown) => void;
}

/** No line of code is longer. */
const LINE_TOKENS = 64;
const BUSY_S = 1;
/** Of further candidates; the first is the likeliest one. */
const TEMPERATURE = 0.6;

export class Courier {
  #flight: Flight | undefined;
  /** What the last request was for. */
  #before: Spot | undefined;
  #busyUntil = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly parts: CourierParts,
    /** The answer is complete and went through the filters; the flight ends with what this returns. */
    private readonly settled: (flight: Flight, settled: Settled) => Flight["entry"],
  ) {}

  /** The request that is on its way. */
  get flight(): Flight | undefined {
    return this.#flight;
  }

  /** Milliseconds for which the server does not want to be asked; 0 or less: it may be. */
  get busyMs(): number {
    return this.#busyUntil - this.parts.clock();
  }

  /** Takes the place of the one on its way, whose connection is closed first. */
  send(spot: Spot, maxTokens: number): Flight {
    this.drop("superseded", "a newer keystroke took its place");
    const trace = this.parts.timeline.begin("completion", spot.model, spot.ask.what);
    const flight = new Flight(spot, trace);
    this.#flight = flight;
    void this.#fly(flight, maxTokens);
    return flight;
  }

  /** End the request on its way, if there is one. */
  drop(outcome: string, why: string): void {
    const flight = this.#flight;
    this.#flight = undefined;
    if (flight === undefined || flight.ended) return;
    flight.abort();
    this.#note(flight.trace, { outcome: flight.trace.shownMs === undefined ? outcome : flight.trace.outcome, why });
  }

  /** Somebody will claim it within this time; else it ends. */
  expect(flight: Flight, milliseconds: number): void {
    flight.expect(milliseconds, () => {
      if (this.#flight === flight) this.drop("cancelled", "the editor did not want it any more");
    });
  }

  forgive(): void {
    this.#busyUntil = Number.NEGATIVE_INFINITY;
  }

  /** Further candidates, settled; none where that fails. */
  async more(spot: Spot, count: number, maxTokens: number, signal: AbortSignal): Promise<readonly string[]> {
    const trace = this.parts.timeline.begin("completion", spot.model, `${spot.ask.what}, ${count} more`);
    const since = () => this.parts.clock() - spot.ask.began;
    const raws = new Map<number, { text: string; finish: string | undefined }>();
    try {
      const slot = `${this.parts.slot}-more`;
      const request = { ...requestFor(spot, maxTokens, slot), temperature: TEMPERATURE, candidates: count };
      const leaving = this.parts.gateway.complete(request, signal);
      this.#note(trace, { sentMs: since() });
      const stream = await leaving;
      this.#note(trace, { headersMs: since(), ...told(stream) });
      for await (const piece of stream) {
        trace.firstTokenMs ??= since();
        gather(raws, piece);
        if (piece.usage !== undefined) trace.usage = piece.usage;
        const ended = [...raws.values()].filter((raw) => raw.finish !== undefined || stopAt(raw.text, spot.where));
        if (ended.length === count && piece.finish === undefined) break;
      }
    } catch (error) {
      this.#failed(trace, error);
    }
    const texts = [...raws.values()].map((raw) => settle(raw.text, spot.where, raw.finish).text);
    const some = texts.filter((text) => text !== "");
    if (trace.outcome === "running") {
      this.#note(trace, { lastTokenMs: since(), outcome: some.length > 0 ? "shown" : "nothing", why: "" });
    }
    return some;
  }

  async #fly(flight: Flight, maxTokens: number): Promise<void> {
    const { spot, trace } = flight;
    const since = () => this.parts.clock() - spot.ask.began;
    try {
      const request = requestFor(spot, maxTokens, this.parts.slot);
      const leaving = this.parts.gateway.complete(request, flight.controller.signal);
      this.#note(trace, { sentMs: since(), ...this.#lengths(spot) });
      const stream = await leaving;
      if (flight.ended) return;
      this.#note(trace, { headersMs: since(), ...told(stream) });
      const finish = await this.#read(flight, stream, since);
      this.parts.met(undefined);
      if (flight.ended) return;
      trace.lastTokenMs = since();
      this.#land(flight, settle(flight.text, spot.where, finish));
    } catch (error) {
      if (!flight.ended) this.#failed(trace, error);
      flight.end();
    } finally {
      if (this.#flight === flight) this.#flight = undefined;
    }
  }

  /** Of two documents or models the server shares nothing of the request's own part. */
  #lengths(spot: Spot): Pick<Trace, "characters" | "repeated"> {
    const before = this.#before;
    this.#before = spot;
    const same = before?.ask.uri === spot.ask.uri && before.model === spot.model;
    return { characters: spot.prefix.length + spot.suffix.length, repeated: same ? repeatedIn(before, spot) : 0 };
  }

  /** Until the end, or until a stop rule is sure: leaving the loop ends the request. Returns the model's own reason. */
  async #read(flight: Flight, stream: Stream, since: () => number): Promise<string | undefined> {
    let finish: string | undefined;
    for await (const piece of stream) {
      if (flight.ended) return undefined;
      if (piece.usage !== undefined) flight.trace.usage = piece.usage;
      finish = piece.finish ?? finish;
      if (piece.index !== 0 || piece.text === "") continue;
      flight.trace.firstTokenMs ??= since();
      flight.said(piece.text);
      // Once the model has ended by itself only the count of its tokens is still to come, at once.
      if (finish === undefined && stopAt(flight.text, flight.spot.where) !== undefined) return undefined;
    }
    return finish;
  }

  #land(flight: Flight, settled: Settled): void {
    const { trace } = flight;
    if (trace.shownMs !== undefined) this.#note(trace, {});
    else if (settled.text === "") this.#note(trace, { outcome: "nothing", why: settled.why });
    else this.#note(trace, { outcome: "unused", why: settled.why || "the editor did not ask for it" });
    flight.end(this.settled(flight, settled));
  }

  #failed(trace: Trace, error: unknown): void {
    const ended = endOf(error);
    this.#note(trace, ended);
    if (ended.outcome !== "failed") return;
    if (error instanceof Fault && error.kind === "busy") {
      this.#busyUntil = this.parts.clock() + (error.retryAfterS ?? BUSY_S) * 1_000;
    }
    this.parts.met(error);
  }

  #note(trace: Trace, change: Partial<Trace>): void {
    this.parts.timeline.update(trace, change);
  }
}

/**
 * Characters that both prompts begin with. The server puts the cursor's line last: the lines above it, the suffix, then the
 * line up to the cursor. So a key in the same line repeats the suffix as well; in another line, or before another suffix,
 * they share what stands above both lines. Only approximate for model families with the suffix in front, and without one.
 */
function repeatedIn(before: Spot, spot: Spot): number {
  const common = commonLength(before.prefix, spot.prefix);
  const [line, lineBefore] = [lineStart(spot.prefix), lineStart(before.prefix)];
  const isSameLine = line === lineBefore && common >= line;
  if (isSameLine && before.suffix === spot.suffix) return common + spot.suffix.length;
  return Math.min(common, line, lineBefore);
}

function lineStart(prefix: string): number {
  return prefix.lastIndexOf("\n") + 1;
}

function commonLength(one: string, other: string): number {
  const most = Math.min(one.length, other.length);
  let at = 0;
  while (at < most && one.charCodeAt(at) === other.charCodeAt(at)) at++;
  return at;
}

/** In a single line the engine itself stops at its end. */
function requestFor(spot: Spot, maxTokens: number, slot: string): CompletionRequest {
  const isLine = spot.where.mode === "line";
  return {
    model: spot.model,
    prefix: spot.prefix,
    suffix: spot.suffix,
    maxTokens: isLine ? Math.min(maxTokens, LINE_TOKENS) : maxTokens,
    temperature: 0,
    slot,
    ...(isLine && { stop: ["\n"] }),
    ...(spot.ask.place !== undefined && { place: spot.ask.place }),
  };
}

/** An abort and a newer request are no failures. */
function endOf(error: unknown): { outcome: string; why: string } {
  if (isAbort(error)) return { outcome: "cancelled", why: "the editor did not want it any more" };
  if (error instanceof Fault && error.kind === "superseded") {
    return { outcome: "superseded", why: "a newer request took its place" };
  }
  const fix = error instanceof Fault ? ` ${error.fix}` : "";
  return { outcome: "failed", why: `${error instanceof Error ? error.message : String(error)}${fix}` };
}

/** What the answer's headers say of it. */
function told(stream: Stream): Partial<Trace> {
  const context = stream.headers["x-aicockpit-context"];
  const route = stream.headers["x-aicockpit-route"];
  return {
    requestId: stream.requestId,
    ...(context !== undefined && { context }),
    ...(route !== undefined && { route }),
  };
}

function gather(raws: Map<number, { text: string; finish: string | undefined }>, piece: Piece): void {
  const known = raws.get(piece.index) ?? { text: "", finish: undefined };
  if (piece.text === "" && piece.finish === undefined) return;
  raws.set(piece.index, { text: known.text + piece.text, finish: piece.finish ?? known.finish });
}
