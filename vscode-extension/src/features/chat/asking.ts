/** From a question to the end of its answer: what was mentioned is read, the prompt fitted, the answer streamed and kept. */

import { sleep } from "../../api/breath";
import { Fault } from "../../api/fault";
import type { Message, Model, Place } from "../../api/gateway";
import { parseMentions } from "../../context/mentions";
import { contextTokens, type TokenEstimate, weight } from "../../context/tokens";
import { type Answered, answer, Joined } from "./answer";
import { mentionsFor, type Read, readMention } from "./chips";
import { ask, change, finish, type Kept, type KeptTurn, turnOf, turnView } from "./conversation";
import type { Desk } from "./desk";
import { countedTooLong, faultView, sentenceOf, withoutModel } from "./faults";
import { fitPrompt, messagesOf, roomOf, sizeOf, textOf } from "./prompt";
import type { Ending, Mention, MentionKind } from "./protocol";
import { shorten } from "./title";

/** The question is shown when its context was read, or after this time. */
const READ_FIRST_MS = 400;
const SAVE_EVERY_MS = 2_000;
/** A prompt refused for its length is cut by a quarter and sent again. */
const ATTEMPTS = 3;
/** What these stood for is gone when a question is asked again: what was read then is sent again. */
const SNAPSHOTS: ReadonlySet<MentionKind> = new Set(["selection", "symbol", "terminal"]);

export interface Question {
  readonly text: string;
  readonly mentions: readonly string[];
  readonly images: readonly string[];
  /** It takes the place of this turn and of all after it. */
  readonly from?: KeptTurn | undefined;
}

/** The conversations that are in work. */
export interface Books {
  get(id: string): Kept | undefined;
  put(kept: Kept): void;
  /** Whether the page shows it. */
  shown(id: string): boolean;
  /** A question left the box: its text and chips are no draft any more. */
  started(id: string): void;
}

interface Running {
  readonly abort: AbortController;
  turn: string | undefined;
  done: Promise<void>;
}

export class Asker {
  readonly #running = new Map<string, Running>();

  constructor(
    private readonly desk: Desk,
    private readonly books: Books,
    private readonly estimate: TokenEstimate,
    private readonly model: () => Promise<Model | undefined>,
  ) {}

  /** Whether an answer of this conversation is coming. */
  runs(conversation: string): boolean {
    return this.#running.has(conversation);
  }

  /** Ends with the answer. Never throws: what goes wrong stands in the turn. */
  async ask(conversation: string, question: Question): Promise<void> {
    const earlier = this.#running.get(conversation);
    if (earlier !== undefined && earlier.turn === undefined) return;
    const began = this.desk.clock();
    const running: Running = { abort: new AbortController(), turn: undefined, done: Promise.resolve() };
    this.#running.set(conversation, running);
    earlier?.abort.abort();
    await earlier?.done;
    running.done = this.#ask(conversation, question, running, began).finally(() => {
      if (this.#running.get(conversation) === running) this.#running.delete(conversation);
    });
    await running.done;
  }

  /** What has come of the answer stays. */
  async stop(conversation: string): Promise<void> {
    const running = this.#running.get(conversation);
    running?.abort.abort();
    await running?.done;
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((each) => this.stop(each)));
  }

  async #ask(conversation: string, question: Question, running: Running, began: number): Promise<void> {
    const { signal } = running.abort;
    const finding = Promise.race([
      this.#findModel(),
      aborted(signal).then(() => ({ model: undefined, error: undefined })),
    ]);
    const tokens = (text: string): number => this.estimate.text("", text);
    const mentions = await mentionsFor(this.desk.surroundings, question.mentions, parseMentions(question.text));
    const reading = Promise.all(mentions.map((each) => this.#read(each, question, tokens, signal)));
    // The question leaves the box soon, even where the server or a file is slow.
    const early = await Promise.race([Promise.all([finding, reading]), sleep(READ_FIRST_MS)]);
    const blind = early === undefined ? undefined : this.#blind(early[0].model, question);
    if (blind !== undefined) return this.desk.post({ type: "notice", text: blind });
    const id = this.desk.id();
    running.turn = id;
    const first = early?.[1].map((read) => read.mention) ?? mentions;
    this.#start(conversation, question, id, early?.[0].model?.id ?? "", first);
    const [{ model, error }, reads] = await Promise.all([finding, reading]);
    this.#put(conversation, id, {
      model: model?.id ?? "",
      mentions: reads.map((read) => read.mention),
      blocks: reads.flatMap((read) => (read.block === undefined ? [] : [read.block])),
      sources: reads.flatMap((read) => read.block?.sources ?? []),
    });
    const turn = this.#turn(conversation, id);
    if (turn === undefined) return;
    if (this.books.shown(conversation)) this.#tellRead(turn, early === undefined);
    if (signal.aborted) return this.#end(conversation, id, { stopped: true });
    if (model === undefined) {
      const fault = error === undefined ? withoutModel(this.desk.connection()) : faultView(error);
      return this.#end(conversation, id, { fault });
    }
    const late = this.#blind(model, question);
    if (late !== undefined) return this.#end(conversation, id, { fault: { message: late, fix: "" } });
    await this.#send(conversation, id, model, signal, began);
  }

  /** Why this model cannot take the pictures. */
  #blind(model: Model | undefined, question: Question): string | undefined {
    if (question.images.length === 0 || model === undefined || model.role === "vision") return undefined;
    return `${model.id} reads no pictures. Choose a model that does, or take the pictures away.`;
  }

  #tellRead(turn: KeptTurn, again: boolean): void {
    if (again) this.desk.post({ type: "turnStarted", turn: turnView(turn) });
    else if (turn.sources.length > 0) this.desk.post({ type: "sources", turn: turn.id, sources: turn.sources });
  }

  async #findModel(): Promise<{ readonly model: Model | undefined; readonly error: unknown }> {
    try {
      return { model: await this.model(), error: undefined };
    } catch (error) {
      this.desk.met(error);
      return { model: undefined, error };
    }
  }

  async #read(
    mention: Mention,
    question: Question,
    tokens: (text: string) => number,
    signal: AbortSignal,
  ): Promise<Read> {
    if (mention.problem !== undefined) return { mention, block: undefined };
    const before = question.from?.blocks.find((block) => block.id === mention.id && block.text !== "");
    const again = before === undefined ? undefined : { ...before, cut: undefined };
    if (again !== undefined && SNAPSHOTS.has(mention.kind)) return { mention, block: again };
    const read = await readMention(this.desk.surroundings, mention, question.text || " ", tokens, signal);
    return read.block === undefined && again !== undefined ? { mention, block: again } : read;
  }

  #start(conversation: string, question: Question, id: string, model: string, mentions: readonly Mention[]): void {
    const kept = this.books.get(conversation);
    if (kept === undefined) return;
    const turn: KeptTurn = {
      id,
      question: question.text,
      mentions,
      images: question.images,
      model,
      answer: "",
      reasoning: "",
      sources: [],
      at: this.desk.now(),
      blocks: [],
    };
    const from = question.from?.id;
    this.books.put(ask(kept, turn, from));
    if (this.books.shown(conversation)) {
      this.desk.post({ type: "turnStarted", turn: turnView(turn), ...(from !== undefined && { from }) });
    }
    this.books.started(conversation);
    this.#save(conversation);
  }

  async #send(conversation: string, id: string, model: Model, signal: AbortSignal, began: number): Promise<void> {
    const what = shorten(this.#turn(conversation, id)?.question.replace(/\s+/g, " ") ?? "", 80);
    const trace = this.desk.timeline.begin("chat", model.id, what);
    const settings = this.desk.settings();
    const room = roomOf(model.maxLength, settings.maxTokens);
    const place = this.desk.place();
    let limit = room.prompt;
    for (let attempt = 0; ; attempt++) {
      const prepared = this.#prepare(conversation, id, model, limit);
      if (prepared instanceof Fault) {
        this.desk.timeline.update(trace, { outcome: "failed", why: prepared.message });
        return this.#end(conversation, id, { fault: faultView(prepared) });
      }
      const { messages, size } = prepared;
      const { temperature } = settings;
      const request = { model: model.id, messages, maxTokens: room.answer, temperature, ...(place && { place }) };
      const { gateway, timeline, clock } = this.desk;
      const came = await this.#stream(conversation, id, (hear) =>
        answer({ gateway, request, signal, timeline, trace, began, clock }, hear),
      );
      const counted = countedTooLong(came.error);
      if (counted !== undefined && attempt < ATTEMPTS - 1 && this.#turn(conversation, id)?.answer === "") {
        if (counted > 0) this.#learn(model.id, messages, counted);
        limit = Math.min(limit, Math.floor(size * 0.75));
        continue;
      }
      this.#learned(model.id, messages, came.ending, place);
      if (came.ending.stopped !== true) this.desk.met(came.error);
      if (came.error !== undefined) this.desk.log(sentenceOf(came.error));
      return this.#end(conversation, id, came.ending);
    }
  }

  /** The messages, cut where there is no room; what was cut is kept as cut, and told. */
  #prepare(
    conversation: string,
    id: string,
    model: Model,
    limit: number,
  ): { readonly messages: readonly Message[]; readonly size: number } | Fault {
    const kept = this.books.get(conversation);
    if (kept === undefined) return new Fault("conflict", "The conversation was deleted.", "Ask in a new one.");
    const at = kept.turns.findIndex((turn) => turn.id === id);
    const wishes = { instructions: this.desk.settings().instructions, vision: model.role === "vision" };
    const tokens = (text: string): number => this.estimate.message(model.id, text);
    const fitted = fitPrompt(kept.turns.slice(0, at + 1), wishes, limit, tokens);
    if (fitted.tooLong) {
      const limited = model.maxLength === undefined ? "" : ` It takes ${model.maxLength.toLocaleString("en")} tokens.`;
      const fix = "Shorten the question, send fewer files, or choose a model with a longer context.";
      return new Fault("bad_request", `The question is too long for ${model.id}.${limited}`, fix);
    }
    if (fitted.left.length > 0) {
      this.books.put({ ...kept, turns: fitted.turns });
      this.#save(conversation);
      this.desk.post({ type: "notice", text: `Left out, to fit into the model's length: ${fitted.left.join(", ")}.` });
    }
    const messages = messagesOf(fitted.turns, wishes);
    return { messages, size: sizeOf(messages, tokens) };
  }

  async #stream(
    conversation: string,
    id: string,
    run: (hear: (text: string, reasoning: string) => void) => Promise<Answered>,
  ): Promise<Answered> {
    let told = this.#turn(conversation, id)?.answer.length ?? 0;
    let saved = this.desk.clock();
    const joined = new Joined((text, reasoning) => {
      const turn = this.#turn(conversation, id);
      if (turn === undefined) return;
      this.#put(conversation, id, { answer: turn.answer + text, reasoning: turn.reasoning + reasoning });
      if (this.books.shown(conversation)) {
        this.desk.post({ type: "delta", turn: id, at: told, text, ...(reasoning !== "" && { reasoning }) });
      }
      told += text.length;
      if (this.desk.clock() - saved < SAVE_EVERY_MS) return;
      saved = this.desk.clock();
      this.#save(conversation);
    });
    try {
      return await run((text, reasoning) => joined.add(text, reasoning));
    } finally {
      joined.flush();
    }
  }

  #learned(model: string, messages: readonly Message[], ending: Ending, place: Place | undefined): void {
    const context = place === undefined ? 0 : contextTokens(ending.context);
    if (ending.usage === undefined || context === undefined) return;
    this.#learn(model, messages, ending.usage.prompt - context);
  }

  #learn(model: string, messages: readonly Message[], tokens: number): void {
    if (messages.some((message) => typeof message.content !== "string")) return;
    const weighed = messages.reduce((sum, message) => sum + weight(textOf(message.content)), 0);
    this.estimate.learn(model, weighed, messages.length, tokens);
  }

  #end(conversation: string, id: string, ending: Ending): void {
    const kept = this.books.get(conversation);
    if (kept === undefined || turnOf(kept, id) === undefined) return;
    this.books.put(finish(kept, id, ending, this.desk.now()));
    this.#save(conversation);
    if (this.books.shown(conversation)) this.desk.post({ type: "turnEnded", turn: id, ending });
  }

  #turn(conversation: string, id: string): KeptTurn | undefined {
    const kept = this.books.get(conversation);
    return kept === undefined ? undefined : turnOf(kept, id);
  }

  #put(conversation: string, id: string, values: Partial<Omit<KeptTurn, "id">>): void {
    const kept = this.books.get(conversation);
    if (kept !== undefined) this.books.put(change(kept, id, values, this.desk.now()));
  }

  /** A full disk must not end an answer: it is told, and the conversation goes on in memory. */
  #save(conversation: string): void {
    const kept = this.books.get(conversation);
    if (kept === undefined) return;
    this.desk.store.save(kept).catch((error: unknown) => {
      this.desk.log(`The conversation could not be saved: ${sentenceOf(error)}`);
      this.desk.post({
        type: "notice",
        text: "The conversation could not be saved; the log says why. It stays here until the window closes.",
      });
    });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
