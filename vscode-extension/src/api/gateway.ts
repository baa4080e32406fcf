/** What the extension knows of a server: the calls it makes, and the shapes that come back. `client.ts` makes them. */

/** A model as `/v1/models` lists it, without the `model@workspace` names. */
export interface Model {
  readonly id: string;
  /** Tokens, prompt and answer together; undefined where the server does not tell. */
  readonly maxLength: number | undefined;
  /** `completion`, `chat`, `embedding`, `rerank`, `vision`; undefined where the server does not tell. */
  readonly role: string | undefined;
}

/** What is known of the server by now. */
export type ConnectionState =
  | { readonly kind: "unknown" }
  | { readonly kind: "ready"; readonly models: readonly Model[] }
  | { readonly kind: "no_key" }
  | { readonly kind: "unauthorized"; readonly why: string }
  | { readonly kind: "offline"; readonly why: string; readonly fix: string }
  | { readonly kind: "no_model"; readonly why: string };

/** Where a request belongs: the server adds this repository's warm context. */
export interface Place {
  readonly workspace: string;
  /** Relative to the workspace, with `/`. Its ending is all that tells the server the language: there is no field for it. */
  readonly path?: string;
  /** `auto`, `none` or a number of tokens. */
  readonly context?: string;
}

export interface CompletionRequest {
  readonly model: string;
  readonly prefix: string;
  readonly suffix: string;
  readonly maxTokens: number;
  readonly stop?: readonly string[];
  readonly temperature?: number;
  /** How many different answers; more than one is not streamed in order. */
  readonly candidates?: number;
  readonly place?: Place;
  /** A newer request in the same slot ends the older one, at the engine too. */
  readonly slot?: string;
}

export type Content =
  | string
  | readonly ({ type: "text"; text: string } | { type: "image_url"; image_url: { url: string } })[];

export interface Message {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: Content;
  /** Of the assistant. */
  readonly toolCalls?: readonly ToolCall[];
  /** Of a tool: the call that this answers. */
  readonly toolCallId?: string;
}

/** A call that a model has asked for. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON. */
  readonly arguments: string;
}

/** What a model may call. `parameters`: a JSON schema. */
export interface Tool {
  readonly name: string;
  readonly description: string;
  readonly parameters: object;
}

export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly Message[];
  readonly maxTokens: number;
  readonly temperature: number;
  readonly stop?: readonly string[];
  readonly place?: Place;
  readonly slot?: string;
  readonly tools?: readonly Tool[];
  /** One of them must be called. */
  readonly toolRequired?: boolean;
  /** `background` waits behind people who type. */
  readonly lane?: "interactive" | "agent" | "background";
}

/** Tokens, as the engine counted them. */
export interface Usage {
  readonly prompt: number;
  /** Of the prompt, found in the KV cache; undefined where the engine does not tell. */
  readonly cached: number | undefined;
  readonly completion: number;
}

/** One piece of a streamed answer. `index` tells candidates apart. */
export interface Piece {
  readonly text: string;
  readonly index: number;
  /** Thoughts of a reasoning model, not part of the answer. */
  readonly reasoning?: string;
  readonly toolCalls?: readonly ToolCallPiece[];
  readonly finish?: string;
  readonly usage?: Usage;
}

/** A bit of a call: `index` tells calls of one answer apart. */
export interface ToolCallPiece {
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  /** Goes on with the arguments. */
  readonly text?: string;
}

/** A streamed answer. Leaving the loop early, or aborting the signal, ends the request at the engine. */
export interface Stream extends AsyncIterable<Piece> {
  /** The server's id of this request: `account` asks what became of it. */
  readonly requestId: string;
  /** Response headers by lower-case name (`x-aicockpit-context`, `-route`, `-fim`). */
  readonly headers: Readonly<Record<string, string>>;
}

/** `GET /api/requests/ID`. Seconds; tokens. Fields that an older server lacks are undefined. */
export interface Account {
  readonly id: string;
  readonly status: number;
  readonly engine: string | undefined;
  /** Why this engine. */
  readonly choice: string;
  /** At the gateway, before the request was sent to an engine. */
  readonly waitedS: number | undefined;
  readonly firstByteS: number;
  readonly totalS: number;
  readonly context:
    | {
        readonly workspace: string | undefined;
        readonly why: string;
        readonly promptTokens: number | undefined;
        readonly predictedCached: number | undefined;
        readonly cachedTokens: number | undefined;
        /** Tokens of header, pack, journal, neighbourhood, tail, as far as told. */
        readonly segments: Readonly<Record<string, number>>;
      }
    | undefined;
}

/** Of one workspace: what a status bar shows. */
export interface WorkspaceStatus {
  readonly name: string;
  readonly revision: number;
  readonly files: number;
  readonly bytes: number;
  readonly lanes: readonly LaneStatus[];
}

export interface LaneStatus {
  readonly model: string;
  readonly lane: string;
  readonly state: "off" | "cold" | "building" | "warming" | "warm" | "stuck" | string;
  readonly reason: string;
  /** 0 to 1: how much of the head is resident on the best engine. */
  readonly resident: number | undefined;
  readonly packTokens: number;
  readonly filesInPack: number;
  readonly journalTokens: number;
  readonly predictedTtftS: number | undefined;
  readonly lastSaveToWarmS: number | undefined;
}

export interface ManifestAnswer {
  readonly applied: boolean;
  readonly revision: number;
  /** Hex hashes of contents that the server lacks. */
  readonly missing: readonly string[];
  readonly missingCount: number;
}

/** One row of a manifest: path, xxh3-128 as 32 hex digits, bytes, nanoseconds. */
export type ManifestFile = readonly [path: string, hash: string, size: number, mtimeNs: bigint];

/** A source of documentation at `/api/docs`. */
export interface DocSource {
  readonly id: string;
  readonly name: string;
  /** A URL, or the name of the uploaded archive or folder. */
  readonly from: string;
  readonly state: "queued" | "fetching" | "indexing" | "ready" | "failed" | "cancelled";
  readonly pages: number;
  readonly chunks: number;
  /** Dead links and the like: what was left out, and why. */
  readonly problems: readonly string[];
  readonly error: string | undefined;
  /** While it is read. `known`: pages found so far, done or not; `current`: the address that is read now. */
  readonly progress?: { readonly known: number; readonly current: string };
}

export interface DocHit {
  readonly source: string;
  readonly title: string;
  /** Where it was read: a URL, or a path in the folder. */
  readonly url: string;
  readonly text: string;
  readonly score: number;
}

/** Every call may throw a `Fault` (see `fault.ts`), and an AbortError when its signal was aborted. */
export interface Gateway {
  /** Where it is, for people: `http://127.0.0.1:8000`. */
  readonly address: string;
  models(signal?: AbortSignal): Promise<readonly Model[]>;
  complete(request: CompletionRequest, signal: AbortSignal): Promise<Stream>;
  chat(request: ChatRequest, signal: AbortSignal): Promise<Stream>;
  /** Undefined: the server does not know it (any more). */
  account(requestId: string, signal?: AbortSignal): Promise<Account | undefined>;

  workspace(name: string, signal?: AbortSignal): Promise<WorkspaceStatus | undefined>;
  createWorkspace(name: string): Promise<WorkspaceStatus>;
  deleteWorkspace(name: string): Promise<void>;
  /** `base` null: `files` is the complete list. Throws a Fault of kind `conflict` at another revision. */
  manifest(
    name: string,
    base: number | null,
    files: readonly ManifestFile[],
    removed: readonly string[],
  ): Promise<ManifestAnswer>;
  blobs(name: string, contents: readonly { hash: string; content: Uint8Array }[]): Promise<void>;
  focus(name: string, path: string, line?: number, model?: string): Promise<void>;
  /** Ask a server on this machine to index the folder itself. False: it cannot (elsewhere, not allowed, too old). */
  watchHere(name: string, folder: string): Promise<boolean>;
  unwatch(name: string): Promise<void>;

  docs(signal?: AbortSignal): Promise<readonly DocSource[]>;
  addDocs(name: string, url: string): Promise<DocSource>;
  /** An archive (zip, tar.gz), or one made of a folder. */
  uploadDocs(name: string, fileName: string, content: Uint8Array): Promise<DocSource>;
  doc(id: string): Promise<DocSource | undefined>;
  cancelDocs(id: string): Promise<void>;
  /** Reads a site again; what is there answers until it is done. */
  refreshDocs(id: string): Promise<void>;
  removeDocs(id: string): Promise<void>;
  searchDocs(
    query: string,
    sources: readonly string[],
    limit: number,
    signal?: AbortSignal,
  ): Promise<readonly DocHit[]>;
}
