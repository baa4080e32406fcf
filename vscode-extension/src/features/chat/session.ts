/** The chat behind its page: takes the page's messages, keeps the conversations, and tells the page what changed. */

import { sleep } from "../../api/breath";
import { TokenEstimate } from "../../context/tokens";
import { Applying } from "./applying";
import { Asker } from "./asking";
import { Chips } from "./chips";
import { empty, type Kept, laterThan, turnOf, viewOf } from "./conversation";
import type { Desk } from "./desk";
import { fileName, toMarkdown } from "./export";
import { sentenceOf } from "./faults";
import { commandOf } from "./insert";
import { Meter } from "./meter";
import { ChatModels } from "./models";
import { Offers } from "./offers";
import type { ChatState, ConversationHead, FromPage } from "./protocol";

const LISTED = 50;
const IMAGES = 4;
const IMAGE_CHARACTERS = 24_000_000;
const MODELS_MS = 300;

export class ChatSession {
  readonly #open = new Map<string, Kept>();
  readonly #asker: Asker;
  readonly #chips: Chips;
  readonly #estimate = new TokenEstimate();
  readonly #offers: Offers;
  #current: string;
  #ready: Promise<void> | undefined;
  #suggesting: AbortController | undefined;
  #searching: AbortController | undefined;
  readonly #applying: Applying;
  readonly #meter = new Meter(this.#estimate);
  readonly #models: ChatModels;

  constructor(private readonly desk: Desk) {
    const kept = empty(desk.id(), desk.now());
    this.#models = new ChatModels(desk);
    this.#offers = new Offers(desk);
    this.#applying = new Applying(desk);
    this.#current = kept.id;
    this.#open.set(kept.id, kept);
    const books = {
      get: (id: string) => this.#open.get(id),
      put: (changed: Kept) => void this.#open.set(changed.id, changed),
      shown: (id: string) => id === this.#current,
      started: (id: string) => this.#started(id),
    };
    this.#asker = new Asker(desk, books, this.#estimate, () => this.#models.current());
    this.#chips = new Chips(
      desk.surroundings,
      (text) => this.#estimate.text(this.#models.known?.id ?? "", text),
      () => {
        this.desk.post({ type: "mentions", mentions: this.#chips.all });
        this.#tellTokens();
      },
    );
  }

  /** Never throws: what goes wrong is told on the page and in the log. */
  async handle(message: FromPage): Promise<void> {
    try {
      await this.#handle(message);
    } catch (error) {
      this.desk.log(`${message.type}: ${sentenceOf(error)}`);
      this.desk.post({ type: "notice", text: sentenceOf(error) });
    }
  }

  #handle(message: FromPage): Promise<void> | void {
    const { acts, memory } = this.desk;
    switch (message.type) {
      case "ready":
        return this.#tellState();
      case "ask":
        return this.#ask(message.text, message.mentions, message.images);
      case "stop":
        return this.#asker.stop(this.#current);
      case "retry":
        return this.#again(message.turn, undefined);
      case "edit":
        return this.#again(message.turn, message.text);
      case "suggest":
        return this.#suggest(message);
      case "addMention":
        return void this.#chips.add(message.id);
      case "removeMention":
        return this.#chips.remove(message.id);
      case "openMention":
        return this.#openMention(message.id, message.turn);
      case "drop":
        return this.#drop(message.uris);
      case "apply":
        return this.#applying.apply(message, this.#kept);
      case "decide":
        return this.#applying.decide(message.turn, message.block, message.accepted);
      case "insert":
        return acts.insert(message.code);
      case "runInTerminal":
        return acts.run(commandOf(message.code));
      case "copy":
        return acts.copy(message.text);
      case "openLink":
        return acts.openLink(message.href);
      case "newChat":
        return this.newChat();
      case "openConversation":
        return this.#openConversation(message.id);
      case "searchConversations":
        return this.#search(message.query, message.requestNumber);
      case "deleteConversation":
        return this.#delete(message.id);
      case "restoreConversation":
        return this.#restore(message.id);
      case "renameConversation":
        return this.#rename(message.id, message.title);
      case "exportConversation":
        return this.export(message.id);
      case "chooseModel":
        return this.#chooseModel(message.id);
      case "draft":
        memory.set("draft", message.text);
        return this.#tellTokens();
      case "command":
        return acts.command(message.name);
      case "act":
        return this.#offers.take(message.token);
      case "pageError":
        return this.desk.log(`the chat page: ${message.message.slice(0, 2_000)}`);
    }
  }

  /** An empty conversation; the one before goes on in the list. What is being typed stays. */
  async newChat(): Promise<void> {
    await this.#resumed();
    if (this.#kept.turns.length > 0) {
      const kept = empty(this.desk.id(), this.desk.now());
      this.#show(kept);
      await this.#tellState();
    }
    this.desk.post({ type: "focus" });
  }

  /** Puts a chip under the question, and the cursor into it. False: it cannot be sent. */
  add(id: string): boolean {
    const added = this.#chips.add(id);
    this.desk.post({ type: "focus" });
    return added;
  }

  async export(given?: string): Promise<void> {
    await this.#resumed();
    const id = given ?? this.#current;
    const kept = this.#open.get(id) ?? (await this.desk.store.open(id));
    if (kept === undefined || kept.turns.length === 0) {
      return this.desk.post({ type: "notice", text: "There is nothing to export yet." });
    }
    const saved = await this.desk.acts.saveAs(fileName(kept), toMarkdown(kept));
    if (saved) this.desk.post({ type: "notice", text: "Exported." });
  }

  /** The server's state changed: connection, folder and models are told anew. */
  async refresh(): Promise<void> {
    this.desk.post({ type: "connection", connection: this.desk.connection() });
    this.tellFolder();
    await this.#tellModels();
  }

  tellFolder(): void {
    const folder = this.desk.folder();
    this.desk.post({ type: "folder", ...(folder && { folder }) });
  }

  /** Ends what runs and waits until all is written. */
  async close(): Promise<void> {
    this.#suggesting?.abort();
    this.#searching?.abort();
    this.#chips.clear();
    await this.#asker.stopAll();
    await this.desk.store.flush();
  }

  get #kept(): Kept {
    return this.#open.get(this.#current) ?? empty(this.#current, this.desk.now());
  }

  /** Conversations that are neither shown nor answered are let go; they are in the store. */
  #show(kept: Kept): void {
    this.#open.set(kept.id, kept);
    this.#current = kept.id;
    this.desk.memory.set("conversation", kept.id);
    for (const id of this.#open.keys()) if (id !== kept.id && !this.#asker.runs(id)) this.#open.delete(id);
  }

  /** The page must not wait for a server that is slow to tell its models: they are told then. */
  async #tellState(): Promise<void> {
    await this.#resumed();
    const viewing = this.#models.view();
    const models = await Promise.race([viewing, sleep(MODELS_MS)]);
    const heads = await this.#heads();
    const folder = this.desk.folder();
    const state: ChatState = {
      conversations: heads.slice(0, LISTED),
      current: viewOf(this.#kept),
      ...(models ?? { models: [] }),
      connection: this.desk.connection(),
      ...(folder && { folder }),
      draft: this.desk.memory.get("draft"),
      mentions: this.#chips.all,
    };
    this.desk.post({ type: "state", state });
    this.#tellTokens();
    if (models === undefined) void viewing.then(() => this.#tellModels());
  }

  /** Without the list there is still a chat. */
  async #heads(): Promise<readonly ConversationHead[]> {
    try {
      return await this.desk.store.heads();
    } catch (error) {
      this.desk.log(`the earlier conversations: ${sentenceOf(error)}`);
      this.desk.post({ type: "notice", text: "The earlier conversations cannot be read; the log says why." });
      return [];
    }
  }

  #resumed(): Promise<void> {
    this.#ready ??= this.#resume().catch((error: unknown) =>
      this.desk.log(`the last conversation: ${sentenceOf(error)}`),
    );
    return this.#ready;
  }

  /** After a restart of the editor the last conversation is open again. */
  async #resume(): Promise<void> {
    const last = this.desk.memory.get("conversation");
    if (last === "" || this.#kept.turns.length > 0 || this.#asker.runs(this.#current)) return;
    const kept = await this.desk.store.open(last);
    if (kept !== undefined && this.#kept.turns.length === 0) this.#show(kept);
  }

  async #tellModels(): Promise<void> {
    this.desk.post({ type: "models", ...(await this.#models.view()) });
    this.#tellTokens();
  }

  async #chooseModel(id: string): Promise<void> {
    await this.#models.choose(id);
    await this.#tellModels();
  }

  async #ask(text: string, mentions: readonly string[], images: readonly string[]): Promise<void> {
    const question = text.trim();
    if (question === "" && images.length === 0) {
      return this.desk.post({ type: "notice", text: "Write a question first." });
    }
    const size = images.reduce((sum, image) => sum + image.length, 0);
    if (images.length > IMAGES || size > IMAGE_CHARACTERS) {
      return this.desk.post({ type: "notice", text: `That is too much: at most ${IMAGES} pictures, 16 MB together.` });
    }
    this.desk.memory.set("draft", text);
    await this.#asker.ask(this.#current, { text: question, mentions, images });
    await this.#tellList();
  }

  async #again(id: string, text: string | undefined): Promise<void> {
    const kept = this.#kept;
    const turn = turnOf(kept, id);
    const question = (text ?? turn?.question ?? "").trim();
    if (turn === undefined || (question === "" && turn.images.length === 0)) return;
    if (laterThan(kept, id).length > 0) this.#offerBack(kept);
    const mentions = turn.mentions.map((mention) => mention.id);
    await this.#asker.ask(kept.id, { text: question, mentions, images: turn.images, from: turn });
    await this.#tellList();
  }

  /** Later questions go when an earlier one is asked again: as a conversation of its own they can come back. */
  #offerBack(kept: Kept): void {
    this.#offers.make("The questions after it were taken away.", "Keep a copy", async () => {
      const copy = { ...kept, id: this.desk.id(), at: this.desk.now() };
      await this.desk.store.save(copy);
      await this.#tellList();
    });
  }

  #started(id: string): void {
    if (id !== this.#current) return;
    this.desk.memory.set("conversation", id);
    this.desk.memory.set("draft", "");
    this.#chips.clear();
  }

  async #suggest({ query, kind, requestNumber }: Extract<FromPage, { type: "suggest" }>): Promise<void> {
    this.#suggesting?.abort();
    const abort = new AbortController();
    this.#suggesting = abort;
    const items = await this.desk.surroundings.suggest(query, kind, abort.signal);
    if (!abort.signal.aborted) this.desk.post({ type: "suggestions", requestNumber, items });
  }

  /** Only chips that are there: the page has no other way to a file's address. */
  async #openMention(id: string, turn: string | undefined): Promise<void> {
    const chips = turn === undefined ? this.#chips.all : (turnOf(this.#kept, turn)?.mentions ?? []);
    if (chips.some((chip) => chip.id === id)) await this.desk.surroundings.show(id);
  }

  async #drop(uris: readonly string[]): Promise<void> {
    for (const uri of uris.slice(0, 24)) {
      const id = await this.desk.surroundings.dropped(uri);
      if (id === undefined || !this.#chips.add(id)) {
        this.desk.post({ type: "notice", text: `This cannot be sent along: ${uri.slice(0, 200)}` });
      }
    }
  }

  async #openConversation(id: string): Promise<void> {
    const kept = this.#open.get(id) ?? (await this.desk.store.open(id));
    if (kept === undefined) {
      this.desk.post({ type: "notice", text: "This conversation is not there any more." });
      return this.#tellList();
    }
    this.#show(kept);
    await this.#tellState();
  }

  async #search(query: string, requestNumber: number): Promise<void> {
    this.#searching?.abort();
    const abort = new AbortController();
    this.#searching = abort;
    const items = await this.desk.store.search(query, LISTED, abort.signal);
    if (!abort.signal.aborted) this.desk.post({ type: "conversations", requestNumber, items });
  }

  async #delete(id: string): Promise<void> {
    await this.#asker.stop(id);
    await this.desk.store.delete(id);
    if (id === this.#current) {
      this.#show(empty(this.desk.id(), this.desk.now()));
      await this.#tellState();
    }
    this.#open.delete(id);
    await this.#tellList();
  }

  async #restore(id: string): Promise<void> {
    const kept = await this.desk.store.restore(id);
    if (kept === undefined)
      this.desk.post({ type: "notice", text: "This conversation cannot be brought back any more." });
    await this.#tellList();
  }

  async #rename(id: string, title: string): Promise<void> {
    const renamed = await this.desk.store.rename(id, title);
    const open = this.#open.get(id);
    if (renamed !== undefined && open !== undefined) {
      this.#open.set(id, { ...open, title: renamed.title, named: renamed.named });
    }
    await this.#tellList();
  }

  async #tellList(): Promise<void> {
    const heads = await this.#heads();
    this.desk.post({ type: "conversations", requestNumber: 0, items: heads.slice(0, LISTED) });
    this.#tellTokens();
  }

  /** What would be sent now. */
  #tellTokens(): void {
    const model = this.#models.known;
    const draft = this.desk.memory.get("draft");
    const prompt = this.#meter.tokens(this.#kept.turns, this.#chips.all, draft, model, this.desk.settings());
    this.desk.post({ type: "tokens", prompt, ...(model?.maxLength !== undefined && { limit: model.maxLength }) });
  }
}
