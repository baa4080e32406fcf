/**
 * The conversations of one workspace: a file each, at most 200 of them and 8 MB each. A file that cannot be read is set
 * aside under another name and told of; the others are not touched by it.
 */

import { type Block, headOf, type Kept, rename, settled } from "./conversation";
import { decode, encode } from "./decode";
import type { Files } from "./files";
import type { ConversationHead } from "./protocol";
import { findIn } from "./search";

const ENDING = ".json";
const DAMAGED = ".damaged";

export interface Limits {
  readonly count: number;
  /** Characters of one file. */
  readonly size: number;
  /** Deleted ones that can be brought back. */
  readonly deleted: number;
}

const LIMITS: Limits = { count: 200, size: 8_000_000, deleted: 20 };

export class ConversationStore {
  readonly #heads = new Map<string, ConversationHead>();
  readonly #deleted = new Map<string, Kept>();
  /** How many writes of a conversation are under way: its file may not be there yet. */
  readonly #saving = new Map<string, number>();
  /** The questions that this window has had, by conversation: others in a file are another window's, and stay there. */
  readonly #mine = new Map<string, Set<string>>();
  /** What was written last, if all of it is this window's: as long as it is there, there is nothing of others. */
  #written = "";
  #writing: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly files: Files,
    /** Hears, in a sentence, of what could not be read. */
    private readonly told: (sentence: string) => void = () => {},
    private readonly limits: Limits = LIMITS,
  ) {}

  /** The newest first. Reads the files that it does not know yet. */
  async heads(): Promise<readonly ConversationHead[]> {
    const names = (await this.files.list()).filter((name) => name.endsWith(ENDING));
    const there = new Set(names.map((name) => name.slice(0, -ENDING.length)));
    for (const id of this.#heads.keys()) if (!there.has(id) && !this.#saving.has(id)) this.#heads.delete(id);
    for (const id of there) if (!this.#heads.has(id)) await this.#read(id);
    return [...this.#heads.values()].sort((one, other) => other.at - one.at || (one.id < other.id ? -1 : 1));
  }

  /** To go on with it. Undefined: there is none, or it is damaged (which is told). */
  async open(id: string): Promise<Kept | undefined> {
    const kept = await this.#read(id);
    if (kept !== undefined) this.#claim(kept);
    return kept;
  }

  async #read(id: string): Promise<Kept | undefined> {
    await this.flush();
    const text = await this.files.read(id + ENDING);
    if (text === undefined) return undefined;
    const decoded = decode(text);
    if ("kept" in decoded && decoded.kept.id === id) {
      this.#heads.set(id, headOf(decoded.kept));
      return settled(decoded.kept);
    }
    if ("wrong" in decoded && decoded.wrong === "newer") return undefined;
    await this.files.move(id + ENDING, id + DAMAGED);
    this.#heads.delete(id);
    this.told(
      `A saved conversation could not be read. It was set aside as ${id}${DAMAGED}; the others are not affected.`,
    );
    return undefined;
  }

  /**
   * One write after the other; the latest state wins, but what another window asked in this conversation stays. One
   * without questions is not kept.
   */
  save(kept: Kept): Promise<void> {
    if (kept.turns.length === 0) return Promise.resolve();
    this.#claim(kept);
    return this.#save(kept);
  }

  #claim(kept: Kept): void {
    const mine = this.#mine.get(kept.id) ?? new Set();
    for (const { id } of kept.turns) mine.add(id);
    this.#mine.set(kept.id, mine);
  }

  #isMine(conversation: string, turn: { readonly id: string }): boolean {
    return this.#mine.get(conversation)?.has(turn.id) === true;
  }

  #save(kept: Kept): Promise<void> {
    this.#heads.set(kept.id, headOf(kept));
    this.#saving.set(kept.id, (this.#saving.get(kept.id) ?? 0) + 1);
    return this.#queue(async () => {
      try {
        if (!this.#heads.has(kept.id)) return;
        const whole = await this.#withOthers(kept);
        const text = encode(within(whole, this.limits.size));
        await this.files.write(kept.id + ENDING, text);
        this.#written = whole.turns.every((turn) => this.#isMine(kept.id, turn)) ? text : "";
        await this.#makeRoom(kept.id);
      } finally {
        const left = (this.#saving.get(kept.id) ?? 1) - 1;
        if (left > 0) this.#saving.set(kept.id, left);
        else this.#saving.delete(kept.id);
      }
    });
  }

  async #withOthers(kept: Kept): Promise<Kept> {
    const text = await this.files.read(kept.id + ENDING);
    if (text === undefined || text === this.#written) return kept;
    const decoded = decode(text);
    const turns = "kept" in decoded && decoded.kept.id === kept.id ? decoded.kept.turns : [];
    const others = turns.filter((turn) => !this.#isMine(kept.id, turn) && !kept.turns.some(({ id }) => id === turn.id));
    if (others.length === 0) return kept;
    return { ...kept, turns: [...kept.turns, ...others].sort((one, other) => one.at - other.at) };
  }

  async rename(id: string, title: string): Promise<Kept | undefined> {
    const kept = await this.#read(id);
    if (kept === undefined) return undefined;
    const renamed = rename(kept, title);
    await this.#save(renamed);
    return renamed;
  }

  /** May be brought back by `restore` as long as this store lives. */
  async delete(id: string): Promise<boolean> {
    const kept = await this.#read(id);
    this.#heads.delete(id);
    if (kept !== undefined) {
      this.#deleted.set(id, kept);
      for (const oldest of this.#deleted.keys()) {
        if (this.#deleted.size <= this.limits.deleted) break;
        this.#deleted.delete(oldest);
      }
    }
    await this.#queue(() => this.files.remove(id + ENDING));
    return kept !== undefined;
  }

  async restore(id: string): Promise<Kept | undefined> {
    const kept = this.#deleted.get(id);
    if (kept === undefined) return undefined;
    this.#deleted.delete(id);
    await this.save(kept);
    return kept;
  }

  /** Those that hold all words, in title or text; the title then tells where. An aborted search ends with what it has. */
  async search(query: string, limit: number, signal?: AbortSignal): Promise<readonly ConversationHead[]> {
    const heads = await this.heads();
    if (query.trim() === "") return heads.slice(0, limit);
    const found: { head: ConversationHead; titled: boolean }[] = [];
    for (const head of heads) {
      if (signal?.aborted === true) break;
      const kept = await this.#read(head.id);
      const hit = kept === undefined ? undefined : findIn(kept, query);
      if (hit !== undefined)
        found.push({
          head: hit.snippet === "" ? head : { ...head, title: `${head.title} · ${hit.snippet}` },
          titled: hit.titled,
        });
    }
    found.sort((one, other) => Number(other.titled) - Number(one.titled));
    return found.slice(0, limit).map((each) => each.head);
  }

  /** Waits until all is written. */
  flush(): Promise<unknown> {
    return this.#writing;
  }

  #queue<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#writing.then(work, work);
    this.#writing = done.catch(() => {});
    return done;
  }

  async #makeRoom(spared: string): Promise<void> {
    const heads = [...this.#heads.values()].sort((one, other) => one.at - other.at);
    for (const head of heads) {
      if (this.#heads.size <= this.limits.count) return;
      if (head.id === spared) continue;
      this.#heads.delete(head.id);
      await this.files.remove(head.id + ENDING);
    }
  }
}

/** Small enough to be kept: pictures go first, then the texts of context, the oldest first; what was said stays. */
export function within(kept: Kept, size: number): Kept {
  let now = kept;
  const fits = (): boolean => encode(now).length <= size;
  for (let at = 0; at < now.turns.length && !fits(); at++) {
    if (now.turns[at]?.images.length) now = withTurn(now, at, { images: [] });
  }
  for (let at = 0; at < now.turns.length && !fits(); at++) {
    const blocks = now.turns[at]?.blocks ?? [];
    if (blocks.length > 0) now = withTurn(now, at, { blocks: blocks.map(without) });
  }
  while (now.turns.length > 1 && !fits()) now = { ...now, turns: now.turns.slice(1) };
  return now;
}

function without(block: Block): Block {
  return { ...block, text: "", cut: true };
}

function withTurn(kept: Kept, at: number, values: Partial<Kept["turns"][number]>): Kept {
  return { ...kept, turns: kept.turns.map((turn, each) => (each === at ? { ...turn, ...values } : turn)) };
}
