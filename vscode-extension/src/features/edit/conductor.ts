/** Runs one edit: asks the model, streams the answer into the document, takes decisions. `ui/edit.ts` gives it an editor. */

import { isAbort } from "../../api/fault";
import type { ConnectionState, Gateway, Model, Place, Stream } from "../../api/gateway";
import { noModel } from "../../api/pick";
import type { Timeline, Trace } from "../timeline";
import { type CleanOptions, clean } from "./clean";
import { blockAt, blocksOf, textOf } from "./diff";
import { sameLines, shortHash } from "./lines";
import { type Changed, Painter, type Surface } from "./painter";
import type { TextChange } from "./plan";
import { expand } from "./presets";
import { buildPrompt, isAboutIndent, type Part } from "./prompt";
import { type EditState, type Event, next, startEdit, type Trouble } from "./session";
import {
  cutNotice,
  emptyAnswer,
  type Message,
  READ_ONLY,
  type SaveReason,
  savedMessage,
  troubleMessage,
  troubleOf,
  UNCHANGED,
} from "./trouble";
import { type View, viewOf } from "./view";

/** What an edit needs of the world. */
export interface Parts {
  readonly surface: Surface;
  readonly gateway: () => Gateway;
  readonly model: () => Promise<Model | undefined>;
  readonly connection: () => ConnectionState;
  readonly settings: () => { readonly instructions: string; readonly maxTokens: number };
  readonly place: Place | undefined;
  /** Of the document, for the slot: a newer edit of it ends an older one. */
  readonly uri: string;
  readonly mac: boolean;
  readonly timeline: Timeline;
  /** Milliseconds. */
  readonly now: () => number;
  readonly pause: (milliseconds: number) => Promise<void>;
  readonly met: (error: unknown) => void;
  readonly draw: (view: View) => void;
  readonly tell: (message: Message) => void;
}

const PAINT_MS = 40;
const MOST_REFUSALS = 25;
const SAVE_LIMIT_MS = 5000;

export class Edit {
  #state: EditState;
  readonly #painter: Painter;
  #abort = new AbortController();
  #trace: Trace | undefined;
  #begun = 0;
  #painting: Promise<void> | undefined;
  /** A request number: what an older one still brings is not heard. */
  #round = 0;
  /** While a file is being saved the lines under review are out of it. */
  #saving = false;
  #thinks = false;

  constructor(
    private readonly parts: Parts,
    readonly part: Part,
    start: number,
  ) {
    this.#state = startEdit(part.selected);
    this.#painter = new Painter(parts.surface, start, part.selected);
  }

  get state(): EditState {
    return this.#state;
  }

  get view(): View {
    return viewOf(this.#state, this.#painter.start, this.#painter.shown, this.parts.mac);
  }

  /** Asks, or follows up. Resolves when the answer has ended, in whatever way; errors are told, not thrown. */
  async ask(typed: string): Promise<void> {
    await this.#request({ type: "ask", instruction: typed.trim() });
  }

  /** The same again, from where it began. */
  async again(): Promise<void> {
    await this.#request({ type: "again" });
  }

  stop(notice = ""): void {
    if (this.#state.phase !== "streaming") return;
    this.#to({ type: "stop", notice });
    this.#abort.abort();
    this.#note({ outcome: "stopped", why: notice || "You stopped it." });
    void this.#paint();
  }

  /** One block, or all of them. Resolves when the document shows it. */
  async decide(verdict: "accept" | "reject", block?: number): Promise<void> {
    const before = this.#state;
    this.#to({ type: verdict, block });
    if (this.#state === before) return;
    if (before.phase === "streaming") this.#abort.abort();
    await this.#paint();
  }

  /** The block at a line of the document, else the next one, for a decision by key. */
  blockAtLine(line: number): number | undefined {
    return blockAt(this.#painter.shown, line - this.#painter.start)?.id;
  }

  /** At each change of the document, whoever made it. */
  changed(event: Changed): void {
    const noticed = this.#painter.noticed(event);
    if (noticed.kind === "outside") this.#draw();
    if (noticed.kind === "back") this.#wentBack(noticed.rows);
    if (noticed.kind === "inside") this.#editedInside(noticed.rows);
  }

  /** The document can be seen again: what could not be shown is shown now. */
  seen(): void {
    void this.#paint();
  }

  /** The edits that make the file what it is without the lines still to be decided; none when it saves by itself. */
  saving(reason: SaveReason): readonly TextChange[] {
    const { phase } = this.#state;
    if (phase === "done" || phase === "asking" || blocksOf(this.#painter.shown).length === 0) return [];
    this.parts.tell(savedMessage(reason));
    if (reason === "by itself") return [];
    this.#saving = true;
    void this.parts.pause(SAVE_LIMIT_MS).then(() => this.#saving && this.saved());
    return this.#painter.beforeSave(this.#state.rows);
  }

  /** What was decided is being written: a saving waits for it. */
  get settling(): Promise<void> | undefined {
    return this.#state.phase === "done" ? this.#painting : undefined;
  }

  /** The document has been saved. */
  saved(): void {
    this.#painter.saved();
    const waiting = this.#saving; // what was decided meanwhile too
    this.#saving = false;
    if (waiting || this.#state.phase !== "done") void this.#paint();
  }

  /** Somebody moved the cursor in the document. */
  moved(): void {
    this.#painter.moved();
  }

  /** The document is gone. */
  closed(): void {
    this.#abort.abort();
    this.#to({ type: "closed" });
    this.#note({ outcome: "closed", why: "The document was closed." });
    this.#draw();
  }

  async #request(event: Event): Promise<void> {
    const before = this.#state;
    this.#to(event);
    if (this.#state === before || this.#state.phase !== "streaming") return;
    const round = ++this.#round;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.#begun = this.parts.now();
    this.#trace = undefined;
    this.#draw();
    try {
      await this.#stream(signal, round);
    } catch (error) {
      if (isAbort(error) || signal.aborted || round !== this.#round) return;
      this.parts.met(error);
      this.#fail(troubleOf(error));
    }
  }

  async #stream(signal: AbortSignal, round: number): Promise<void> {
    const model = await this.parts.model();
    if (signal.aborted || round !== this.#round) return;
    if (model === undefined) throw noModel(this.parts.connection());
    this.#trace = this.parts.timeline.begin("edit", model.id, this.#where());
    const { instructions, maxTokens } = this.parts.settings();
    const { turns, reach, instruction } = this.#state;
    const prompt = buildPrompt({
      part: this.part,
      instruction: expand(instruction),
      turns: turns.map((turn) => ({ ...turn, instruction: expand(turn.instruction) })),
      current: reach.base,
      instructions,
      maxLength: model.maxLength,
      maxAnswer: maxTokens,
      thinks: this.#thinks,
    });
    if (!prompt.fits) {
      this.#fail({ message: prompt.why, fix: prompt.fix, kind: "too_large" });
      return;
    }
    this.#note({ sentMs: this.#elapsed() });
    const stream = await this.parts.gateway().chat(
      {
        model: model.id,
        messages: prompt.messages,
        maxTokens: prompt.maxTokens,
        temperature: 0,
        slot: `edit-${shortHash(this.parts.uri)}`,
        ...(this.parts.place !== undefined && { place: this.parts.place }),
      },
      signal,
    );
    this.#noteHeaders(stream);
    await this.#read(stream, this.#cleaning(prompt.markers), prompt.maxTokens, signal);
  }

  async #read(stream: Stream, options: CleanOptions, maxTokens: number, signal: AbortSignal): Promise<void> {
    let raw = "";
    let finish = "";
    let thought = false;
    for await (const piece of stream) {
      if (signal.aborted) return;
      if (piece.usage !== undefined) this.#note({ usage: piece.usage });
      if (piece.reasoning !== undefined && piece.reasoning !== "") thought = true;
      if (piece.index !== 0) continue;
      finish = piece.finish ?? finish;
      if (piece.text === "") continue;
      if (raw === "") this.#note({ firstTokenMs: this.#elapsed() });
      raw += piece.text;
      if (piece.text.includes("\n")) this.#arrived(clean(raw, false, options).lines);
    }
    if (signal.aborted) return;
    this.#thinks ||= thought || /^\s*(?:<think|<\|channel\|>analysis|\[THINK)/.test(raw);
    this.#note({ lastTokenMs: this.#elapsed() });
    this.parts.met(undefined);
    this.#ended(raw, finish === "length", options, maxTokens);
    await this.#paint();
  }

  #arrived(lines: readonly string[]): void {
    const before = this.#state;
    this.#to({ type: "arrived", lines });
    if (this.#state !== before) void this.#paint();
  }

  #ended(raw: string, cut: boolean, options: CleanOptions, maxTokens: number): void {
    const answer = clean(raw, !cut, options);
    if (answer.verdict !== "code" && answer.lines.length === 0) {
      this.#fail(emptyAnswer(answer, cut ? maxTokens : undefined));
      return;
    }
    const notice = cut ? cutNotice(maxTokens) : "";
    this.#to({ type: "ended", lines: answer.lines, cut, notice });
    const { outcome } = this.#state;
    if (outcome === "unchanged") {
      this.#note({ outcome: "nothing", why: "The answer is what was there." });
      this.parts.tell(UNCHANGED);
    } else {
      this.#note({ outcome: "shown", why: notice, shownMs: this.#elapsed() });
      if (notice !== "") this.parts.tell({ level: "info", text: notice, offers: [] });
    }
  }

  #cleaning(markers: readonly [string, string]): CleanOptions {
    const { before, after, language, whole } = this.part;
    const { instruction, reach } = this.#state;
    return { original: reach.base, before, after, language, markers, whole, ownIndent: isAboutIndent(instruction) };
  }

  #fail(trouble: Trouble): void {
    this.#to({ type: "failed", trouble });
    this.#trace ??= this.parts.timeline.begin("edit", "", this.#where());
    this.#note({ outcome: "failed", why: `${trouble.message} ${trouble.fix}` });
    this.parts.tell(troubleMessage(trouble));
    void this.#paint();
  }

  #wentBack(rows: EditState["rows"]): void {
    const streaming = this.#state.phase === "streaming";
    const pending = blocksOf(rows).length > 0;
    if (streaming) this.#abort.abort();
    if (pending) this.#to({ type: "revived", rows });
    else if (sameLines(textOf(rows), this.#state.original)) this.#to({ type: "undone" });
    else this.#to({ type: "edited", rows });
    this.#draw();
  }

  #editedInside(rows: EditState["rows"]): void {
    if (this.#saving) return; // a formatter at work; what is to be decided comes back on top of it
    const streaming = this.#state.phase === "streaming";
    this.#to({ type: "edited", rows });
    if (streaming) {
      this.#abort.abort();
      this.#note({ outcome: "stopped", why: this.#state.notice });
      this.parts.tell({ level: "info", text: this.#state.notice, offers: [] });
    }
    this.#draw();
  }

  /** One at a time; what changes meanwhile is shown by the same run. */
  #paint(): Promise<void> {
    this.#painting ??= this.#paintAll().finally(() => {
      this.#painting = undefined;
    });
    return this.#painting;
  }

  async #paintAll(): Promise<void> {
    for (let refusals = 0; refusals < MOST_REFUSALS && !this.#saving; ) {
      const { rows, phase, outcome } = this.#state;
      if (outcome === "closed" || outcome === "undone") break;
      if (rows === this.#painter.shown) break;
      const result = phase === "done" ? await this.#painter.settle(rows) : await this.#painter.show(rows, false);
      this.#draw();
      if (result === "hidden" || result === "closed") break;
      if (result === "unchanged") {
        this.#locked();
        break;
      }
      if (result === "refused") refusals++;
      if (this.#state.phase === "streaming" || result === "refused") await this.parts.pause(PAINT_MS);
    }
    this.#draw();
  }

  #locked(): void {
    this.#abort.abort();
    this.#to({ type: "closed" });
    this.#note({ outcome: "failed", why: "The document cannot be changed." });
    this.parts.tell(READ_ONLY);
  }

  #to(event: Event): void {
    const before = this.#state;
    this.#state = next(before, event);
    const { phase, outcome } = this.#state;
    const decided = phase === "done" && before.phase === "reviewing";
    if (decided || (phase === "done" && event.type === "reject")) this.#note({ outcome });
  }

  #draw(): void {
    this.parts.draw(this.view);
  }

  #where(): string {
    return `${this.part.path}:${this.#painter.start + 1}`;
  }

  #elapsed(): number {
    return this.parts.now() - this.#begun;
  }

  #note(change: Partial<Trace>): void {
    if (this.#trace !== undefined) this.parts.timeline.update(this.#trace, change);
  }

  #noteHeaders(stream: Stream): void {
    const { "x-aicockpit-context": context, "x-aicockpit-route": route } = stream.headers;
    this.#note({
      requestId: stream.requestId,
      headersMs: this.#elapsed(),
      ...(context !== undefined && { context }),
      ...(route !== undefined && { route }),
    });
  }
}
