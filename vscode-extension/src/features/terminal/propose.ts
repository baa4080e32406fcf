/** Asks the model for a command, and writes down in the timeline how that went. */

import { collect } from "../../api/collect";
import { type Fault, isAbort } from "../../api/fault";
import type { Gateway, Model } from "../../api/gateway";
import type { Timeline, Trace } from "../timeline";
import { type Proposal, parseProposal } from "./parse";
import { promptFor, type Surroundings } from "./prompt";

const MAX_TOKENS = 512;
/** Thinking models need room to think before they answer. */
const MAX_TOKENS_THINKING = 4096;

export interface Asking {
  readonly gateway: Gateway;
  readonly model: Model;
  readonly timeline: Timeline;
  readonly description: string;
  readonly where: Surroundings;
  /** Whether a sentence of explanation is wanted. */
  readonly explain: boolean;
  readonly signal: AbortSignal;
  /** Hears what has come of it so far. */
  readonly onDraft: (draft: Proposal) => void;
  /** Milliseconds; `performance.now` unless told. */
  readonly clock?: () => number;
}

export interface Proposed extends Proposal {
  readonly trace: Trace;
  /** The answer came to its end by the limit of tokens. */
  readonly cut: boolean;
}

/** A command for a description. Throws what the gateway throws; an empty command is no error: `explanation` may say why. */
export async function propose(asking: Asking): Promise<Proposed> {
  const { gateway, model, timeline, description, signal } = asking;
  const clock = asking.clock ?? (() => performance.now());
  const began = clock();
  const since = () => clock() - began;
  const trace = timeline.begin("terminal", model.id, description.slice(0, 120));
  try {
    const messages = promptFor(description, asking.where, asking.explain);
    const maxTokens = /think|reason|\br1\b|qwq|gpt-oss/i.test(model.id) ? MAX_TOKENS_THINKING : MAX_TOKENS;
    const request = {
      model: model.id,
      messages,
      maxTokens,
      temperature: 0,
      slot: "terminal",
      lane: "interactive",
    } as const;
    timeline.update(trace, { sentMs: since() });
    const stream = await gateway.chat(request, signal);
    const { "x-aicockpit-context": context, "x-aicockpit-route": route } = stream.headers;
    timeline.update(trace, {
      requestId: stream.requestId,
      headersMs: since(),
      ...(context !== undefined && { context }),
      ...(route !== undefined && { route }),
    });
    const { text, usage, finish } = await collect(stream, (all) => {
      trace.firstTokenMs ??= since();
      asking.onDraft(parseProposal(all));
    });
    const proposal = parseProposal(text);
    timeline.update(trace, { lastTokenMs: since(), ...(usage !== undefined && { usage }), ...outcomeOf(proposal) });
    return { ...proposal, trace, cut: finish === "length" };
  } catch (error) {
    const stopped = isAbort(error) || signal.aborted;
    const why = stopped ? "You stopped it." : reasonOf(error);
    timeline.update(trace, { lastTokenMs: since(), outcome: stopped ? "stopped" : "failed", why });
    throw error;
  }
}

function outcomeOf({ command, explanation }: Proposal): Pick<Trace, "outcome" | "why"> {
  if (command !== "") return { outcome: "shown", why: "" };
  return { outcome: "nothing", why: explanation || "the answer held no command" };
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { fix } = error as Partial<Fault>;
  return fix ? `${error.message} ${fix}` : error.message;
}
