/** The editor's tools with our models: which model may be given any, and the calls that its answer asks for. No editor here. */

import { sleep } from "../../api/breath";
import { Fault } from "../../api/fault";
import type { Gateway, Model, Tool, ToolCallPiece } from "../../api/gateway";

/** A call as the editor wants it. */
export interface ToolUse {
  readonly id: string;
  readonly name: string;
  readonly input: object;
}

interface Open {
  id: string;
  name: string;
  written: string;
}

const SHOWN = 120;
/** The editor waits for the list of models. */
const PATIENCE_MS = 3_000;
/** Its engine may be started again, with a parser: then the model is asked once more. */
const NO_LASTS_MS = 10 * 60_000;
/** Models that are remembered. */
const KEPT = 200;

/** Puts streamed calls together. Several may be asked for in one answer; their pieces are told apart by index. */
export class ToolCalls {
  readonly #open = new Map<number, Open>();

  /** Names come whole, some servers repeat them; arguments come bit by bit. */
  add(pieces: readonly ToolCallPiece[]): void {
    for (const { index, id = "", name = "", text = "" } of pieces) {
      const open = this.#open.get(index) ?? { id: "", name: "", written: "" };
      if (open.id === "") open.id = id;
      if (open.name === "") open.name = name;
      open.written += text;
      this.#open.set(index, open);
    }
  }

  /** All calls, in the model's order. Throws a Fault for one that cannot be made. `cut`: the answer was, at its limit. */
  uses(cut: boolean): readonly ToolUse[] {
    const inOrder = [...this.#open].sort(([one], [other]) => one - other);
    return inOrder.map(([index, { id, name, written }]) => {
      if (name === "") throw broken("a tool without a name", written, cut);
      const input = objectIn(written);
      if (input === undefined) throw broken(`the tool ${name} with arguments that are no JSON object`, written, cut);
      return { id: id === "" ? `call_${index}` : id, name, input };
    });
  }
}

function objectIn(written: string): object | undefined {
  if (written.trim() === "") return {};
  try {
    const found: unknown = JSON.parse(written);
    return typeof found === "object" && found !== null && !Array.isArray(found) ? found : undefined;
  } catch {
    return undefined;
  }
}

function broken(what: string, written: string, cut: boolean): Fault {
  const start = written.length > SHOWN ? `${written.slice(0, SHOWN)}…` : written;
  return new Fault(
    "protocol",
    `The model asked for ${what}${cut ? ", since its answer was cut at its limit" : ""}: “${start}”.`,
    cut ? "Raise aicockpit.chat.maxTokens." : "Ask again, or choose another model.",
  );
}

const PROBE: Tool = { name: "now", description: "Tells the time.", parameters: { type: "object", properties: {} } };

/**
 * Whether a model may be given tools. No list of models says it: an engine without a parser for the calls refuses a request
 * with tools, so it is asked for one word with one, once for each model of a server. A no lasts ten minutes.
 */
export class ToolSense {
  readonly #known = new Map<string, Known>();

  /** `learnt` is told when a yes comes that nobody waited for any more. */
  constructor(
    private readonly learnt: () => void,
    private readonly patienceMs = PATIENCE_MS,
    /** Milliseconds, also those in which the computer sleeps. */
    private readonly clock: () => number = Date.now,
  ) {}

  /** False also where it was not found out yet: the engine is busy, or not in memory, for it is not woken for this. */
  async can(gateway: Pick<Gateway, "address" | "chat">, model: Model & { readonly ready?: boolean | undefined }) {
    if (model.ready === false) return false;
    const key = `${gateway.address} ${model.id}`;
    const known = this.#known.get(key);
    const isOld = known?.refusedAt !== undefined && this.clock() - known.refusedAt >= NO_LASTS_MS;
    const { asked } = known === undefined || isOld ? this.#ask(key, gateway, model.id) : known;
    const found = await Promise.race([asked, sleep(this.patienceMs).then(() => "late" as const)]);
    if (found === "late") void asked.then((can) => can === true && this.learnt());
    return found === true;
  }

  /** Every no: the server was away, and may be back with other engines. */
  forget(): void {
    for (const [key, { refusedAt }] of this.#known) if (refusedAt !== undefined) this.#known.delete(key);
  }

  #ask(key: string, gateway: Pick<Gateway, "chat">, model: string): Known {
    const known: Known = {
      asked: ask(gateway, model).then((can) => {
        if (can === false) known.refusedAt = this.clock();
        if (can === undefined && this.#known.get(key) === known) this.#known.delete(key);
        return can;
      }),
      refusedAt: undefined,
    };
    this.#known.delete(key); // the newest stands last
    this.#known.set(key, known);
    const oldest = this.#known.keys().next().value;
    if (this.#known.size > KEPT && oldest !== undefined) this.#known.delete(oldest);
    return known;
  }
}

interface Known {
  readonly asked: Promise<boolean | undefined>;
  /** When it said no. */
  refusedAt: number | undefined;
}

/** Undefined: it could not be asked. */
async function ask(gateway: Pick<Gateway, "chat">, model: string): Promise<boolean | undefined> {
  const abort = new AbortController();
  const messages = [{ role: "user", content: "Hello" }] as const;
  try {
    const request = { model, messages, maxTokens: 1, temperature: 0, tools: [PROBE], lane: "background" } as const;
    for await (const _piece of await gateway.chat(request, abort.signal)) break;
    return true;
  } catch (error) {
    return error instanceof Fault && error.kind === "bad_request" ? false : undefined;
  } finally {
    abort.abort();
  }
}
