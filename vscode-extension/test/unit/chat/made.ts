/** Turns, blocks and a desk for tests of the chat. */

import type { ChatRequest, Gateway, Model } from "../../../src/api/gateway";
import { idOf, referenceOf } from "../../../src/context/mentions";
import type { Block, Kept, KeptTurn } from "../../../src/features/chat/conversation";
import type { Desk, Surroundings } from "../../../src/features/chat/desk";
import type { Files } from "../../../src/features/chat/files";
import type { FromPage, ToPage } from "../../../src/features/chat/protocol";
import { ChatSession } from "../../../src/features/chat/session";
import { ConversationStore } from "../../../src/features/chat/store";
import { Timeline } from "../../../src/features/timeline";
import { fakeGateway, streamOf } from "../fakeGateway";

export function block(path: string, text: string): Block {
  return { id: `file:file:///${path}`, kind: "file", title: path, language: "ts", text };
}

export function turn(id: string, question: string, answer: string, values: Partial<KeptTurn> = {}): KeptTurn {
  return {
    id,
    question,
    answer,
    at: 1_000,
    mentions: [],
    images: [],
    model: "m",
    reasoning: "",
    sources: [],
    blocks: [],
    ending: { totalMs: 5 },
    ...values,
  };
}

export function kept(id: string, turns: readonly KeptTurn[], values: Partial<Kept> = {}): Kept {
  return { id, title: "A title", named: false, created: 1_000, at: 2_000, turns, ...values };
}

/** Files in memory. */
export function memoryFiles(): Files & { readonly texts: Map<string, string> } {
  const texts = new Map<string, string>();
  return {
    texts,
    list: async () => [...texts.keys()],
    read: async (name) => texts.get(name),
    write: async (name, text) => void texts.set(name, text),
    remove: async (name) => void texts.delete(name),
    move: async (from, to) => {
      const text = texts.get(from);
      if (text === undefined) return;
      texts.delete(from);
      texts.set(to, text);
    },
  };
}

/** Files of a made-up workspace, by path. */
export function surroundings(files: Readonly<Record<string, string>>): Surroundings & { readonly shown: string[] } {
  const shown: string[] = [];
  return {
    shown,
    suggest: async (query) => [
      {
        id: idOf({ kind: "file", at: `/${query}` }),
        kind: "file",
        label: query,
        detail: query,
        insert: query,
        icon: "file",
      },
    ],
    mention(id) {
      const reference = referenceOf(id);
      if (reference === undefined) return undefined;
      return { id, kind: reference.kind, label: reference.at.split("/").at(-1) ?? "", detail: reference.at.slice(1) };
    },
    async read(id, question, signal) {
      signal.throwIfAborted();
      const reference = referenceOf(id);
      const path = reference?.at.slice(1) ?? "";
      if (reference?.kind === "docs") {
        const sources = [{ title: "[1] A page", href: "https://docs.example/a" }];
        return { id, kind: "docs", title: "Documentation", language: "", text: `> about ${question}`, sources };
      }
      const text = files[path];
      if (text === undefined) throw new Error(`${path} cannot be read.`);
      return { ...block(path, text), id, kind: reference?.kind ?? "file" };
    },
    async find({ kind, argument }) {
      if (kind === "docs") return idOf({ kind, at: "*" });
      return argument in files ? idOf({ kind: "file", at: `/${argument}` }) : undefined;
    },
    dropped: async (uri) => (uri.startsWith("file:///") ? idOf({ kind: "file", at: uri.slice(7) }) : undefined),
    show: async (id) => void shown.push(id),
  };
}

export interface TestDesk extends Desk {
  readonly posted: ToPage[];
  readonly logged: string[];
  readonly mets: unknown[];
  readonly did: string[];
  readonly files: ReturnType<typeof memoryFiles>;
  readonly shown: string[];
  server: { models: readonly Model[]; chat: Gateway["chat"] };
  /** Messages of one type, oldest first. */
  of<T extends ToPage["type"]>(type: T): Extract<ToPage, { type: T }>[];
}

export const MODEL: Model = { id: "m", maxLength: 8_192, role: "chat" };

export function desk(
  chat: Gateway["chat"],
  values: Partial<Desk> = {},
  files: Readonly<Record<string, string>> = {},
): TestDesk {
  const posted: ToPage[] = [];
  const logged: string[] = [];
  const mets: unknown[] = [];
  const did: string[] = [];
  const stored = memoryFiles();
  const around = surroundings(files);
  const memory = new Map<string, string>();
  const server = { models: [MODEL] as readonly Model[], chat };
  let ids = 0;
  return {
    posted,
    logged,
    mets,
    did,
    files: stored,
    shown: around.shown,
    server,
    of: (type) => posted.filter((message) => message.type === type) as never,
    gateway: fakeGateway({ chat: (request, signal) => server.chat(request, signal) }),
    timeline: new Timeline(),
    store: new ConversationStore(stored, (sentence) => did.push(sentence)),
    surroundings: around,
    acts: {
      apply: async (place, _, hear) => {
        did.push(`apply ${place.code}`);
        hear("shown", "a.ts");
        hear("applied", "a.ts");
      },
      insert: async (code) => void did.push(`insert ${code}`),
      run: async (command) => void did.push(`run ${command}`),
      copy: async (text) => void did.push(`copy ${text}`),
      openLink: async (href) => void did.push(`open ${href}`),
      saveAs: async (name) => did.push(`save ${name}`) > 0,
      pickModel: async (models) => models.at(-1)?.id,
      command: async (name) => void did.push(`command ${name}`),
    },
    memory: { get: (key) => memory.get(key) ?? "", set: (key, value) => void memory.set(key, value) },
    settings: () => ({ instructions: "", maxTokens: 1_000, temperature: 0.2 }),
    models: async () => server.models,
    chatModel: async () => server.models[0],
    connection: () => ({ kind: "ready", why: "", fix: "" }),
    folder: () => undefined,
    place: () => undefined,
    met: (error) => void mets.push(error),
    post: (message) => void posted.push(message),
    log: (line) => void logged.push(line),
    now: () => 10_000 + ids,
    clock: () => performance.now(),
    id: () => `id-${++ids}`,
    ...values,
  };
}

/** Waits until it holds; fails after eight seconds. */
export async function until(holds: () => boolean): Promise<void> {
  const end = Date.now() + 8_000;
  while (!holds()) {
    if (Date.now() > end) throw new Error("it did not come true in eight seconds");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Answers each question with these texts. */
export function echo(seen: ChatRequest[] = [], texts = ["one ", "two"]): Gateway["chat"] {
  return async (request, signal) => {
    seen.push(request);
    return streamOf(texts, {
      signal,
      usage: { prompt: 50, cached: 40, completion: 2 },
      headers: { "x-aicockpit-context": "none; cold" },
    });
  };
}

export function question(text: string, mentions: readonly string[] = [], images: readonly string[] = []): FromPage {
  return { type: "ask", text, mentions, images };
}

/** A session whose page is ready. */
export async function started(
  chat: Gateway["chat"],
  values: Parameters<typeof desk>[1] = {},
  files: Readonly<Record<string, string>> = {},
) {
  const made = desk(chat, values, files);
  const session = new ChatSession(made);
  await session.handle({ type: "ready" });
  return { made, session };
}

export function lastTurn(made: TestDesk) {
  const turn = made.of("turnStarted").at(-1)?.turn;
  if (turn === undefined) throw new Error("no turn has started");
  return turn;
}

export function lastEnding(made: TestDesk) {
  return made.of("turnEnded").at(-1)?.ending;
}
