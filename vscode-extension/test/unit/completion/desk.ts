/** A session with a gateway that answers as told, and a document to type in. */

import type { CompletionRequest, Stream } from "../../../src/api/gateway";
import type { Source } from "../../../src/context/window";
import { type Options, Session } from "../../../src/features/completion/session";
import type { Ask } from "../../../src/features/completion/spot";
import { Timeline } from "../../../src/features/timeline";
import { fakeGateway, type StreamOptions, streamOf } from "../fakeGateway";

/** A text as a source. */
export function sourceOf(text: string): Source {
  const lines = text.split(/\r\n|\r|\n/);
  return { lineCount: lines.length, line: (index) => lines[index] ?? "" };
}

export interface Call {
  readonly request: CompletionRequest;
  readonly signal: AbortSignal;
  /** Signals of the calls before it that were still open when it was made. */
  readonly othersOpen: number;
}

export interface Answer extends StreamOptions {
  readonly texts: readonly string[];
}

/** A model that says what it is told to, when it is told to. */
export class Tap implements Stream {
  readonly requestId = "tap";
  readonly headers = {};
  /** Pieces that were read. */
  read = 0;
  #pieces: string[] = [];
  #ended = false;
  #wake = () => {};

  say(...texts: readonly string[]): Promise<void> {
    this.#pieces.push(...texts);
    this.#wake();
    return settled();
  }

  end(): Promise<void> {
    this.#ended = true;
    this.#wake();
    return settled();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      const text = this.#pieces.shift();
      if (text !== undefined) {
        this.read += 1;
        yield { text, index: 0 };
      } else if (this.#ended) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

/** Until everything that can happen by itself has happened. */
export async function settled(): Promise<void> {
  for (let round = 0; round < 5; round++) await new Promise((resolve) => setImmediate(resolve));
}

export class Desk {
  readonly calls: Call[] = [];
  readonly met: unknown[] = [];
  readonly more: Ask[] = [];
  readonly timeline = new Timeline();
  readonly session: Session;
  text = "";
  /** Offset of the cursor. */
  at = 0;
  language = "python";

  constructor(
    /** What the model says to a request; an error is thrown. */
    answer: (request: CompletionRequest, index: number) => Answer | Stream | Error,
    options: Partial<Options> = {},
  ) {
    const gateway = fakeGateway({
      complete: async (request, signal) => {
        const othersOpen = this.calls.filter((call) => !call.signal.aborted && !this.#done.has(call)).length;
        const call = { request, signal, othersOpen };
        this.calls.push(call);
        const said = answer(request, this.calls.length - 1);
        if (said instanceof Error) throw said;
        if ("requestId" in said && Symbol.asyncIterator in said) return said;
        const { texts, ...rest } = said as Answer;
        return streamOf(texts, { ...rest, signal, onEnd: () => this.#done.add(call) });
      },
    });
    this.session = new Session({
      gateway,
      timeline: this.timeline,
      clock: () => performance.now(),
      slot: "completion-test",
      met: (error) => this.met.push(error),
      more: (ask) => this.more.push(ask),
      options: () => ({ model: "m", maxTokens: 96, multiline: "auto", candidates: 3, ...options }),
    });
  }
  readonly #done = new Set<Call>();

  /** `█` is the cursor. */
  open(text: string): this {
    this.at = text.indexOf("█");
    this.text = text.replace("█", "");
    return this;
  }

  /** At the cursor; `behind` is what the editor closes by itself. */
  type(text: string, behind = ""): this {
    this.text = this.text.slice(0, this.at) + text + behind + this.text.slice(this.at);
    this.at += text.length;
    return this;
  }

  backspace(count = 1): this {
    this.text = this.text.slice(0, this.at - count) + this.text.slice(this.at);
    this.at -= count;
    return this;
  }

  ask(more: Partial<Ask> = {}): Ask {
    const before = this.text.slice(0, this.at).split("\n");
    return {
      uri: "file:///a.py",
      what: `a.py:${before.length}`,
      language: this.language,
      source: sourceOf(this.text),
      line: before.length - 1,
      character: before.at(-1)?.length ?? 0,
      explicit: false,
      began: performance.now(),
      ...more,
    };
  }

  /** The texts that would be shown. */
  async shown(more: Partial<Ask> = {}, signal = new AbortController().signal): Promise<readonly string[]> {
    return (await this.session.suggest(this.ask(more), signal)).map((one) => one.text);
  }

  outcomes(): readonly string[] {
    return [...this.timeline.all()].reverse().map((trace) => trace.outcome);
  }
}

export function later(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
