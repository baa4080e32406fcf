/** What the chat needs of the editor around it. `ui/chatView.ts` gives it, tests give their own. */

import type { Gateway, Model, Place } from "../../api/gateway";
import type { Typed } from "../../context/mentions";
import type { Timeline } from "../timeline";
import type { Block } from "./conversation";
import type {
  AppliedState,
  BlockPlace,
  ConnectionView,
  FolderView,
  Mention,
  MentionKind,
  PageCommand,
  Suggestion,
  ToPage,
} from "./protocol";
import type { ConversationStore } from "./store";

/** What a question can be sent with. Ids are `context/mentions.ts`'s. */
export interface Surroundings {
  suggest(query: string, kind: MentionKind | undefined, signal: AbortSignal): Promise<readonly Suggestion[]>;
  /** Label and detail, from the id alone. Undefined: no id of ours. */
  mention(id: string): Mention | undefined;
  /** What it is now. Throws a Fault, whose message stands on the chip. `question` is what documentation is searched for. */
  read(id: string, question: string, signal: AbortSignal): Promise<Block>;
  /** The id of a typed mention; undefined: there is no such thing. */
  find(typed: Typed): Promise<string | undefined>;
  /** The id of what was dropped in. */
  dropped(uri: string): Promise<string | undefined>;
  show(id: string): Promise<void>;
}

/** What the person lets the chat do. Each tells what went wrong by throwing a Fault. */
export interface Acts {
  /** `decided`: what the person says about the diff on the page; they may say it in the editor instead. */
  apply(
    block: BlockPlace,
    clues: { readonly answer: string; readonly mentions: readonly Mention[]; readonly blocks: readonly Block[] },
    hear: (state: AppliedState, detail?: string) => void,
    decided: Promise<boolean>,
  ): Promise<void>;
  insert(code: string): Promise<void>;
  run(command: string): Promise<void>;
  copy(text: string): Promise<void>;
  openLink(href: string): Promise<void>;
  /** False: the person changed their mind. */
  saveAs(name: string, text: string): Promise<boolean>;
  pickModel(models: readonly Model[], now: string | undefined): Promise<string | undefined>;
  command(name: PageCommand): Promise<void>;
}

export interface Settings {
  readonly instructions: string;
  readonly maxTokens: number;
  readonly temperature: number;
}

/** Small things to remember for this workspace. */
export interface Memory {
  get(key: "draft" | "model" | "conversation"): string;
  set(key: "draft" | "model" | "conversation", value: string): void;
}

export interface Desk {
  readonly gateway: Gateway;
  readonly timeline: Timeline;
  readonly store: ConversationStore;
  readonly surroundings: Surroundings;
  readonly acts: Acts;
  readonly memory: Memory;
  settings(): Settings;
  models(): Promise<readonly Model[]>;
  /** The model of the settings, else the server's. */
  chatModel(): Promise<Model | undefined>;
  connection(): ConnectionView;
  folder(): FolderView | undefined;
  place(): Place | undefined;
  /** Of a fault, or of a success. */
  met(error: unknown): void;
  post(message: ToPage): void;
  log(line: string): void;
  /** `Date.now()`, `performance.now()` and an id that no other has. */
  now(): number;
  clock(): number;
  id(): string;
}
