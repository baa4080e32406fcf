/** One answer from the first byte to the last: thoughts told from text, times and figures taken, errors in words. */

import { isAbort } from "../../api/fault";
import type { ChatRequest, Gateway, Usage } from "../../api/gateway";
import type { Timeline, Trace } from "../timeline";
import { faultView, sentenceOf } from "./faults";
import type { Ending } from "./protocol";
import { Thinking } from "./thinking";
import { ToolCalls, type ToolUse } from "./tools";

export interface Asked {
  readonly gateway: Gateway;
  readonly request: ChatRequest;
  readonly signal: AbortSignal;
  readonly timeline: Timeline;
  readonly trace: Trace;
  /** When the person asked, by `clock`. */
  readonly began: number;
  readonly clock: () => number;
}

export interface Answered {
  readonly ending: Ending;
  /** What the model asks to be called. */
  readonly uses: readonly ToolUse[];
  /** What was thrown, unless it was an abort. */
  readonly error?: unknown;
}

/** Never throws. `hear` gets each piece; what it got when the person stopped, or the server failed, stays. */
export async function answer(asked: Asked, hear: (text: string, reasoning: string) => void): Promise<Answered> {
  const { gateway, request, signal, timeline, trace, clock } = asked;
  const since = (): number => Math.round(clock() - asked.began);
  const thinking = new Thinking();
  let usage: Usage | undefined;
  let finish: string | undefined;
  let sent = 0;
  let first: number | undefined;
  let context: string | undefined;
  let written = false;
  const calls = new ToolCalls();
  const told = (part: { readonly text: string; readonly reasoning: string }): void => {
    if (part.text === "" && part.reasoning === "") return;
    written ||= part.text !== "";
    hear(part.text, part.reasoning);
  };
  const ending = (): Ending => ({
    ...(usage && { usage }),
    ...(first !== undefined && { firstTokenMs: first - sent }),
    ...(context !== undefined && { context }),
    totalMs: since() - sent,
  });
  try {
    sent = since();
    timeline.update(trace, { sentMs: sent });
    const stream = await gateway.chat(request, signal);
    context = stream.headers["x-aicockpit-context"];
    const route = stream.headers["x-aicockpit-route"];
    timeline.update(trace, {
      requestId: stream.requestId,
      headersMs: since(),
      ...(context !== undefined && { context }),
      ...(route !== undefined && { route }),
    });
    for await (const piece of stream) {
      if (piece.usage !== undefined) usage = piece.usage;
      if (piece.index !== 0) continue;
      if (piece.finish !== undefined) finish = piece.finish;
      if (piece.toolCalls !== undefined) calls.add(piece.toolCalls);
      if (piece.text === "" && piece.reasoning === undefined && piece.toolCalls === undefined) continue;
      if (first === undefined) {
        first = since();
        timeline.update(trace, { firstTokenMs: first });
      }
      const part = thinking.add(piece.text);
      told({ text: part.text, reasoning: (piece.reasoning ?? "") + part.reasoning });
      if (trace.shownMs === undefined && written) trace.shownMs = since();
    }
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    told(thinking.end());
    const uses = calls.uses(finish === "length");
    const some = written || uses.length > 0;
    timeline.update(trace, { ...ended(), outcome: some ? "shown" : "nothing", why: whyOf(some, finish) });
    const truncated = finish === "length" && { truncated: true };
    return { uses, ending: { ...ending(), ...truncated, ...(!some && nothing(finish)) } };
  } catch (error) {
    told(thinking.end());
    if (isAbort(error) || signal.aborted) {
      timeline.update(trace, { ...ended(), outcome: "stopped", why: "You stopped it." });
      return { uses: [], ending: { ...ending(), stopped: true } };
    }
    timeline.update(trace, { ...ended(), outcome: "failed", why: sentenceOf(error) });
    return { uses: [], ending: { ...ending(), fault: faultView(error) }, error };
  }

  function ended(): Partial<Trace> {
    return { lastTokenMs: since(), ...(usage && { usage }) };
  }
}

function whyOf(written: boolean, finish: string | undefined): string {
  if (!written) return "The model ended without a word of answer.";
  return finish === "length" ? "The answer was cut at the limit of tokens." : "";
}

function nothing(finish: string | undefined): Pick<Ending, "fault"> {
  const fix =
    finish === "length"
      ? "It used all its tokens for thinking: raise aicockpit.chat.maxTokens."
      : "Ask again, or choose another model.";
  return { fault: { message: "The model gave no answer.", fix } };
}

/** Pieces joined so that the page is told at most about 30 times a second; the first goes at once. */
export class Joined {
  #text = "";
  #reasoning = "";
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly tell: (text: string, reasoning: string) => void,
    private readonly everyMs = 33,
  ) {}

  add(text: string, reasoning: string): void {
    this.#text += text;
    this.#reasoning += reasoning;
    if (this.#timer !== undefined) return;
    this.#tell();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#text !== "" || this.#reasoning !== "") this.add("", "");
    }, this.everyMs);
  }

  /** Tells what is left, now. */
  flush(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#tell();
  }

  #tell(): void {
    if (this.#text === "" && this.#reasoning === "") return;
    const [text, reasoning] = [this.#text, this.#reasoning];
    this.#text = "";
    this.#reasoning = "";
    this.tell(text, reasoning);
  }
}
