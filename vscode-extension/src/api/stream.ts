/** A streamed answer of the OpenAI API as pieces of text. `client.ts` makes it of an HTTP answer. */

import { Fields, misshapen, parseJson } from "./decode";
import { Fault } from "./fault";
import { faultOfEvent } from "./faults";
import type { Piece, Stream, Usage } from "./gateway";
import type { Answer } from "./http";
import { EventParser } from "./sse";
import { readToolCalls } from "./toolWire";

/** How one choice of an event is read: completions and chat differ in this only. */
export type ReadChoice = (choice: Fields) => Pick<Piece, "text" | "reasoning" | "toolCalls">;

/** `choices[].text` of /v1/completions. */
export const completionChoice: ReadChoice = (choice) => ({ text: choice.text("text", "") });

/** `choices[].delta` of /v1/chat/completions; thoughts stand apart, under either of the names that vLLM has had. */
export const chatChoice: ReadChoice = (choice) => {
  const delta = choice.maybeFields("delta");
  const reasoning = delta?.maybeText("reasoning_content") ?? delta?.maybeText("reasoning") ?? "";
  const toolCalls = readToolCalls(delta);
  return {
    text: delta?.maybeText("content") ?? "",
    ...(reasoning !== "" && { reasoning }),
    ...(toolCalls.length > 0 && { toolCalls }),
  };
};

/** `candidates`: how many choices must have ended before leaving early means that nothing is left to compute. */
export function streamOf(answer: Answer, requestId: string, read: ReadChoice, candidates = 1): Stream {
  let taken = false;
  return {
    requestId,
    headers: answer.headers,
    [Symbol.asyncIterator]() {
      if (taken) throw new Error("a stream can be read once");
      taken = true;
      return pieces(answer, read, candidates);
    },
  };
}

async function* pieces(answer: Answer, read: ReadChoice, candidates: number): AsyncGenerator<Piece, void, void> {
  const parser = new EventParser();
  const ended = new Set<number>();
  const chunks = answer.chunks();
  let done = false;
  try {
    while (!done) {
      const chunk = await chunks.next();
      const events = chunk.done ? parser.end() : parser.push(chunk.value);
      for (const event of events) {
        if (event.data === "[DONE]") done = true;
        for (const piece of done ? [] : readEvent(event.data, read)) {
          if (piece.finish !== undefined) ended.add(piece.index);
          yield piece;
        }
      }
      if (chunk.done && !done && ended.size < candidates) throw brokenOff();
      done ||= chunk.done === true;
    }
  } finally {
    // Who leaves after the last piece has stopped nothing: the connection can stay.
    const free = done || ended.size >= candidates ? answer.finish() : undefined;
    await chunks.return();
    if (done) await free; // the next request of this reader then finds the connection
  }
}

function brokenOff(): Fault {
  const fix = "Try again; the server's log says why.";
  return new Fault("server", "The answer broke off before its end.", fix, undefined, "cut_short");
}

/** The pieces of one event, one per candidate in it. Throws the Fault that an error event tells. */
function readEvent(data: string, read: ReadChoice): readonly Piece[] {
  const event = new Fields(parseJson(data, ""), "event");
  if (event.has("error")) throw faultOfEvent(readRaw(data));
  const usage = readUsage(event.maybeFields("usage"));
  const found = event.list("choices", (value, at) => readChoice(new Fields(value, at), read), true);
  const last = found.at(-1);
  if (usage === undefined) return found;
  return last === undefined ? [{ text: "", index: 0, usage }] : [...found.slice(0, -1), { ...last, usage }];
}

function readRaw(data: string): unknown {
  const found: unknown = JSON.parse(data);
  return typeof found === "object" && found !== null && "error" in found ? found.error : undefined;
}

function readChoice(choice: Fields, read: ReadChoice): Piece {
  const index = choice.number("index", 0);
  if (!Number.isInteger(index) || index < 0) throw misshapen("the index of a choice is no count");
  const finish = choice.maybeText("finish_reason");
  return { ...read(choice), index, ...(finish !== undefined && { finish }) };
}

function readUsage(usage: Fields | undefined): Usage | undefined {
  if (usage === undefined) return undefined;
  return {
    prompt: usage.number("prompt_tokens", 0),
    cached: usage.maybeFields("prompt_tokens_details")?.maybeNumber("cached_tokens"),
    completion: usage.number("completion_tokens", 0),
  };
}
