/**
 * The engine of inline completion, without an editor: from a keystroke to what may be shown. No debounce: a request
 * leaves at once, the next keystroke takes its place, keeps its stream or needs none at all.
 */

import type { Anchor } from "../../context/window";
import type { Trace } from "../timeline";
import { holdsKey } from "../workspace/secrets";
import { Cache, continued, type Entry, type Found, suffixKey } from "./cache";
import { Courier, type CourierParts } from "./courier";
import type { Flight } from "./flight";
import { replaced, type Settled, settle } from "./settle";
import { type Ask, fitsSelected, Spot } from "./spot";
import type { Multiline } from "./where";

export interface Options {
  readonly model: string;
  readonly maxTokens: number;
  readonly multiline: Multiline;
  /** When asked by key. */
  readonly candidates: number;
}

export interface Parts extends CourierParts {
  readonly options: () => Options;
  /** The rest of a suggestion that was shown before it was complete has come. */
  readonly more?: (ask: Ask) => void;
}

/** Takes the place of `from` to `to` on the cursor's line. */
export interface Suggestion {
  readonly text: string;
  readonly from: number;
  readonly to: number;
  readonly trace: Trace;
}

/** Several lines are shown as far as they have come after this time; the rest follows. */
const PATIENCE_MS = 250;
/** A stream that was begun before the editor asked waits this long for it. */
const EDITOR_ASKS_MS = 1_000;
/** One that the editor has given up waits for the next keystroke to claim it. */
const CLAIMED_MS = 300;
/** Further candidates may take this much longer than the first. */
const MORE_MS = 2_000;
const DOCUMENTS = 64;

export class Session {
  readonly #cache = new Cache();
  readonly #anchors = new Map<string, Anchor>();
  readonly #courier: Courier;
  #shown: { entry: Entry; partOf: Flight | undefined } | undefined;
  #last: Ask | undefined;
  #turn = 0;

  constructor(private readonly parts: Parts) {
    this.#courier = new Courier(parts, (flight, settled) => this.#settled(flight, settled));
  }

  /** The text has changed, the editor has not asked yet: the request leaves now, so that it is on its way by then. */
  ahead(ask: Ask): void {
    const spot = this.#spot(ask);
    if (this.#local(spot) !== undefined) {
      if (this.#courier.flight?.agrees(spot) === false)
        this.#courier.drop("superseded", "the answer was known already");
      return;
    }
    if (this.#courier.busyMs > 0 || holdsSecret(spot)) return;
    const flight = this.#flightFor(spot);
    if (!flight.isAwaited) this.#courier.expect(flight, EDITOR_ASKS_MS);
  }

  /** What may be shown, the best first. Never throws; an aborted signal gives nothing. */
  async suggest(ask: Ask, signal: AbortSignal): Promise<readonly Suggestion[]> {
    if (!fitsSelected(ask)) return this.refuse(ask, "the suggest list shows something that does not begin as typed");
    const spot = this.#spot(ask);
    const turn = ++this.#turn;
    const local = this.#local(spot);
    const wanted = ask.explicit ? this.parts.options().candidates : 1;
    if (local !== undefined && (!ask.explicit || local.rests.length >= wanted)) return this.#show(local, spot);
    const busy = this.#courier.busyMs;
    if (!ask.explicit && busy > 0) return this.refuse(ask, `the server is busy: asks again in ${seconds(busy)}`);
    if (holdsSecret(spot)) return this.refuse(ask, "a private key stands here: nothing is sent until you ask");
    const more = wanted > 1 ? this.#more(spot, wanted - 1, signal) : undefined;
    const known = local !== undefined && local.rests.length > 0;
    const first = known ? local : await this.#await(spot, turn, signal);
    const found = more === undefined ? first : this.#joined(spot, first, await more());
    return found === undefined || signal.aborted || turn !== this.#turn ? [] : this.#show(found, spot);
  }

  /** Nothing is asked for, for this reason: the same one again makes no new trace. */
  refuse(ask: Ask, why: string): readonly Suggestion[] {
    const last = this.parts.timeline.last("completion");
    if (last?.outcome === "nothing" && last.why === why) return [];
    const { timeline, options } = this.parts;
    timeline.update(timeline.begin("completion", options().model, ask.what), { outcome: "nothing", why });
    return [];
  }

  /** The cursor is here now: a request for another place ends at once. */
  moved(uri: string, line: number, character: number): void {
    const last = this.#last;
    if (last?.uri === uri && last.line === line && last.character === character) return;
    this.#courier.drop("cancelled", "the cursor moved away");
  }

  /** The whole of a suggestion was taken. */
  accepted(trace: Trace): void {
    this.parts.timeline.update(trace, { outcome: "accepted", why: "" });
    if (this.#shown?.entry.trace === trace) this.#shown = undefined;
  }

  /** Settings have changed, or the server is another one: nothing from before holds. */
  reset(): void {
    this.#courier.drop("cancelled", "the settings changed");
    this.#cache.clear();
    this.#shown = undefined;
    this.#courier.forgive();
  }

  dispose(): void {
    this.#courier.drop("cancelled", "the editor closes");
  }

  #spot(ask: Ask): Spot {
    const { model, multiline } = this.parts.options();
    const spot = new Spot(ask, model, multiline, this.#anchors.get(ask.uri));
    this.#anchors.delete(ask.uri);
    this.#anchors.set(ask.uri, spot.anchor);
    for (const oldest of this.#anchors.keys()) {
      if (this.#anchors.size <= DOCUMENTS) break;
      this.#anchors.delete(oldest);
    }
    this.#last = ask;
    return spot;
  }

  #flightFor(spot: Spot): Flight {
    const open = this.#courier.flight;
    return open?.agrees(spot) ? open : this.#courier.send(spot, this.parts.options().maxTokens);
  }

  /** Without a request: what is shown stays as long as it agrees, then what was had before. */
  #local(spot: Spot): Found | undefined {
    const shown = this.#shown;
    if (shown !== undefined) {
      const found = this.#usable(continued(shown.entry, spot.ask.uri, spot.prefix, spot.suffix));
      if (found !== undefined) return found;
      const { trace, texts } = shown.entry;
      const taken = texts.some((text) => spot.prefix.endsWith(text));
      if (trace.outcome === "shown" && !taken) {
        this.parts.timeline.update(trace, { outcome: "ignored", why: "something else was typed" });
      }
      this.#shown = undefined;
    }
    const { uri } = spot.ask;
    return this.#usable(this.#cache.find(spot.seed, uri, spot.prefix, spot.suffix, this.parts.clock()));
  }

  /** Nothing but blanks left is as good as taken: it is time for the next one. */
  #usable(found: Found | undefined): Found | undefined {
    if (found === undefined || found.rests.length === 0) return found;
    const rests = found.rests.filter((rest) => rest.trim() !== "");
    return rests.length === 0 ? undefined : { ...found, rests };
  }

  /** The answer of the open stream, if it agrees, or of a new one. Undefined: there is none, or it is too late. */
  async #await(spot: Spot, turn: number, signal: AbortSignal): Promise<Found | undefined> {
    let flight = this.#flightFor(spot);
    let patient = true;
    const wait = spot.ask.began + PATIENCE_MS - this.parts.clock();
    const patience = setTimeout(
      () => {
        patient = false;
        flight.said("");
      },
      Math.max(0, wait),
    );
    try {
      for (;;) {
        if (signal.aborted || turn !== this.#turn) {
          if (!flight.isAwaited) this.#courier.expect(flight, CLAIMED_MS);
          return undefined;
        }
        const result = this.#result(flight, spot, patient);
        if (result !== "unknown" && result !== "other") return result;
        if (result === "other") flight = this.#courier.send(spot, this.parts.options().maxTokens);
        await flight.changed(signal);
      }
    } finally {
      clearTimeout(patience);
    }
  }

  /** What a flight means for a place by now; `other`: it answers something else. */
  #result(flight: Flight, spot: Spot, patient: boolean): Found | undefined | "unknown" | "other" {
    if (flight.entry !== undefined) {
      const found = this.#usable(continued(flight.entry, spot.ask.uri, spot.prefix, spot.suffix));
      return found === undefined && flight.spot.prefix !== spot.prefix ? "other" : found;
    }
    if (flight.ended) return undefined;
    if (!flight.agrees(spot)) return "other";
    return (patient ? undefined : this.#part(flight, spot)) ?? "unknown";
  }

  /** Whole lines that have come of a longer answer, if there are any. */
  #part(flight: Flight, spot: Spot): Found | undefined {
    const end = flight.text.lastIndexOf("\n");
    if (spot.ask.explicit || end < 0 || flight.text.slice(0, end).trim() === "") return undefined;
    const settled = settle(flight.text.slice(0, end), flight.spot.where);
    if (settled.text === "") return undefined;
    const entry = this.#entry(flight, [settled.text], "");
    return this.#usable(continued(entry, spot.ask.uri, spot.prefix, spot.suffix));
  }

  /** Kept for typing through; what was shown of it in part is now shown whole. */
  #settled(flight: Flight, settled: Settled): Entry {
    const entry = this.#entry(flight, settled.text === "" ? [] : [settled.text], settled.why);
    const shown = this.#shown;
    const part = shown?.partOf === flight ? shown.entry.texts[0] : undefined;
    if (part !== undefined && settled.text.startsWith(part) && settled.text !== part) {
      this.#shown = { entry, partOf: undefined };
      if (this.#last !== undefined) this.parts.more?.(this.#last);
    }
    return entry;
  }

  #entry(flight: Flight, texts: readonly string[], why: string): Entry {
    const { spot, trace } = flight;
    return this.#keep(spot, { texts, why, trace, began: spot.ask.began });
  }

  #keep(spot: Spot, made: Pick<Entry, "texts" | "why" | "trace" | "began">): Entry {
    const at = this.parts.clock();
    return this.#cache.put(spot.seed, spot.prefix, { ...made, uri: spot.ask.uri, suffix: suffixKey(spot.suffix), at });
  }

  /** Asked for at once, together with the first; waited for only a while longer than that one. */
  #more(spot: Spot, count: number, signal: AbortSignal): () => Promise<readonly string[]> {
    const enough = new AbortController();
    const both = AbortSignal.any([signal, enough.signal]);
    const asked = this.#courier.more(spot, count, this.parts.options().maxTokens, both);
    return async () => {
      const timer = setTimeout(() => enough.abort(), MORE_MS);
      const texts = await asked;
      clearTimeout(timer);
      return texts;
    };
  }

  /** Candidates that differ, under this place. */
  #joined(spot: Spot, first: Found | undefined, more: readonly string[]): Found | undefined {
    if (first === undefined) return undefined;
    const rests = [...new Set([...first.rests, ...more])];
    if (rests.length === 0) return first;
    const { trace, began, why } = first.entry;
    return { entry: this.#keep(spot, { texts: rests, why, trace, began }), rests, typed: 0 };
  }

  #show(found: Found, spot: Spot): readonly Suggestion[] {
    const { ask } = spot;
    if (found.rests.length === 0) return this.refuse(ask, found.entry.why);
    const same = found.entry.suffix === suffixKey(spot.suffix);
    const { start, end, text: item } = ask.selected ?? { start: ask.character, end: ask.character, text: "" };
    const suggestions: Suggestion[] = [];
    for (const rest of found.rests) {
      const settled = same
        ? { text: rest, replace: replaced(rest, spot.after, ask.language) }
        : settle(rest, spot.where);
      if (settled.text === "") continue;
      suggestions.push({
        text: item + settled.text,
        from: start,
        to: end + settled.replace,
        trace: found.entry.trace,
      });
    }
    if (suggestions.length > 0) this.#noteShown(found);
    return suggestions;
  }

  #noteShown({ entry, typed }: Found): void {
    const { timeline, clock } = this.parts;
    const flight = this.#courier.flight;
    this.#shown = { entry, partOf: flight?.trace === entry.trace ? flight : undefined };
    if (entry.trace.shownMs === undefined) {
      timeline.update(entry.trace, { outcome: "shown", why: entry.why, shownMs: clock() - entry.began });
    } else if (typed > 0 && entry.trace.outcome !== "accepted") {
      timeline.update(entry.trace, { outcome: "typed through", why: "" });
    }
  }
}

/** Looked at before anything is sent; who asks by key has asked for it. */
function holdsSecret({ ask, prefix, suffix }: Spot): boolean {
  return !ask.explicit && holdsKey(ask.what.replace(/:\d+$/, ""), Buffer.from(prefix + suffix));
}

function seconds(milliseconds: number): string {
  return `${Math.max(1, Math.ceil(milliseconds / 1_000))} s`;
}
