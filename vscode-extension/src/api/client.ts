/** The gateway's API as calls: what `gateway.ts` promises, over the one HTTP stack. */

import { createHash, randomUUID } from "node:crypto";
import { stat } from "node:fs/promises";
import { shownAddress } from "./address";
import { frames, manifestBody, packed } from "./bodies";
import { parseJson } from "./decode";
import { Fault } from "./fault";
import { faultOfAnswer } from "./faults";
import type {
  Account,
  ChatRequest,
  CompletionRequest,
  DocHit,
  DocSource,
  Gateway,
  ManifestAnswer,
  ManifestFile,
  Model,
  Place,
  Stream,
  WorkspaceStatus,
} from "./gateway";
import { type Answer, type Call, Http, readAll, readError, type Server } from "./http";
import {
  type Listed,
  readAccount,
  readDoc,
  readDocs,
  readHits,
  readManifest,
  readModels,
  readWorkspace,
} from "./shapes";
import { chatChoice, completionChoice, type ReadChoice, streamOf } from "./stream";
import { toolsOf, wireMessage } from "./toolWire";

/** Where to, and with which key. Empty key: none is sent. */
export interface Options extends Server {
  readonly key: string;
}

/** What the server is and whether it can answer now. */
export interface Sighting {
  readonly models: readonly Listed[];
  readonly ready: boolean;
  /** The server's own words: what is loading, or why nothing is. */
  readonly reason: string;
}

/** The gateway, and what only set-up and status bar ask. */
export interface Client extends Gateway {
  /** The models, and whether one can answer. Throws what `models` throws. */
  look(signal?: AbortSignal): Promise<Sighting>;
}

const STREAM_IDLE_MS = 180_000;
const JSON_IDLE_MS = 60_000;
const UPLOAD_IDLE_MS = 300_000;
const LARGEST_JSON = 64 * 1024 * 1024;
const REMEMBERED = 32;
/** A server may have learnt it since: it was started anew, with a tokenizer. */
const SUFFIX_AGAIN_MS = 300_000;
const LONGEST_SLOT = 64;
// Different answers need chance: at temperature 0 all candidates are the same, and vLLM refuses them.
const CHANCE = 0.4;
const NO_FOLDER: ReadonlySet<number> = new Set([403, 404, 405, 409]);

/**
 * `options` is asked at each request, so the gateway follows the settings. `before` runs first: it may wait (for the
 * key to be read) or throw (where nothing may be sent).
 */
export function createGateway(
  options: () => Options,
  http: Http = new Http(),
  before: () => Promise<void> = async () => {},
): Client {
  return new HttpGateway(options, http, before);
}

interface Send extends Partial<Pick<Call, "headers" | "signal" | "idleMs">> {
  /** Sent as JSON. */
  readonly json?: unknown;
  readonly body?: string | Uint8Array;
}

class HttpGateway implements Client {
  /** Slots are the key's: another window, or a colleague with the same key, must not end our requests. */
  readonly #window = randomUUID().slice(0, 8);
  /** When a model, by address, took no `suffix`. */
  readonly #noSuffix = new Map<string, number>();

  constructor(
    private readonly options: () => Options,
    private readonly http: Http,
    private readonly before: () => Promise<void>,
  ) {}

  get address(): string {
    return shownAddress(this.options().address);
  }

  async models(signal?: AbortSignal): Promise<readonly Model[]> {
    return await this.#get("/v1/models", readModels, signal);
  }

  async look(signal?: AbortSignal): Promise<Sighting> {
    const models = await this.#get("/v1/models", readModels, signal);
    if (models.some((model) => model.ready !== false)) return { models, ready: true, reason: "ready" };
    return { models, ...(await this.#readiness(signal)) };
  }

  /** `/ready` says in words how far it is; it answers 503 while it is not. Servers without it are ready. */
  async #readiness(signal?: AbortSignal): Promise<{ ready: boolean; reason: string }> {
    const answer = await this.#send("GET", "/ready", { signal });
    const said = await readError(answer);
    if (answer.status === 404) return { ready: false, reason: "no model is served" };
    try {
      const { ready, reason } = JSON.parse(said) as { ready?: unknown; reason?: unknown };
      return { ready: ready === true, reason: typeof reason === "string" ? reason : "" };
    } catch {
      return { ready: answer.status === 200, reason: `/ready answers ${answer.status}` };
    }
  }

  async complete(request: CompletionRequest, signal: AbortSignal): Promise<Stream> {
    const place = `${this.address} ${request.model}`;
    const refused = this.#noSuffix.get(place) ?? Number.NEGATIVE_INFINITY;
    const suffix = performance.now() - refused < SUFFIX_AGAIN_MS ? "" : request.suffix;
    try {
      return await this.#completion({ ...request, suffix }, signal);
    } catch (error) {
      if (suffix === "" || !isAboutSuffix(error)) throw error;
    }
    // No fill-in-the-middle there (plain vLLM, or no tokenizer): what stands before the cursor is still worth something.
    if (this.#noSuffix.size >= REMEMBERED) this.#noSuffix.clear();
    this.#noSuffix.set(place, performance.now());
    return await this.#completion({ ...request, suffix: "" }, signal);
  }

  /** One request, whatever it is refused for. */
  #completion(request: CompletionRequest, signal: AbortSignal): Promise<Stream> {
    const candidates = request.candidates ?? 1;
    const temperature = request.temperature ?? 0;
    const body = {
      model: request.model,
      prompt: request.prefix,
      ...(request.suffix !== "" && { suffix: request.suffix }),
      max_tokens: request.maxTokens,
      temperature: candidates > 1 && temperature === 0 ? CHANCE : temperature,
      ...(candidates > 1 && { n: candidates }),
      ...(request.stop !== undefined && request.stop.length > 0 && { stop: request.stop }),
      ...placeOf(request.place),
    };
    const headers = this.#slot(request.slot);
    return this.#stream("/v1/completions", body, headers, signal, completionChoice, candidates);
  }

  async chat(request: ChatRequest, signal: AbortSignal): Promise<Stream> {
    const body = {
      model: request.model,
      messages: request.messages.map(wireMessage),
      max_tokens: request.maxTokens,
      temperature: request.temperature,
      ...(request.stop !== undefined && request.stop.length > 0 && { stop: request.stop }),
      ...toolsOf(request),
      ...placeOf(request.place),
    };
    const lane = request.lane === undefined ? {} : { "x-aicockpit-lane": request.lane };
    return await this.#stream(
      "/v1/chat/completions",
      body,
      { ...this.#slot(request.slot), ...lane },
      signal,
      chatChoice,
      1,
    );
  }

  account(requestId: string, signal?: AbortSignal): Promise<Account | undefined> {
    return orNothing(this.#get(`/api/requests/${encodeURIComponent(requestId)}`, readAccount, signal));
  }

  workspace(name: string, signal?: AbortSignal): Promise<WorkspaceStatus | undefined> {
    return orNothing(this.#get(workspacePath(name), readWorkspace, signal));
  }

  createWorkspace(name: string): Promise<WorkspaceStatus> {
    return this.#json("PUT", workspacePath(name), readWorkspace);
  }

  async deleteWorkspace(name: string): Promise<void> {
    await orNothing(this.#json("DELETE", workspacePath(name), () => undefined));
  }

  async manifest(
    name: string,
    base: number | null,
    files: readonly ManifestFile[],
    removed: readonly string[],
  ): Promise<ManifestAnswer> {
    const body = await packed(await manifestBody(base, files, removed));
    const send = { body, headers: packedHeaders("application/json"), idleMs: UPLOAD_IDLE_MS };
    return await this.#json("POST", `${workspacePath(name)}/manifest`, readManifest, send);
  }

  async blobs(name: string, contents: readonly { hash: string; content: Uint8Array }[]): Promise<void> {
    const body = await packed(frames(contents));
    const send = { body, headers: packedHeaders("application/octet-stream"), idleMs: UPLOAD_IDLE_MS };
    await this.#json("POST", `${workspacePath(name)}/blobs`, () => undefined, send);
  }

  async focus(name: string, path: string, line?: number, model?: string): Promise<void> {
    const json = { path, ...(line !== undefined && { line }), ...(model !== undefined && { model }) };
    await this.#json("POST", `${workspacePath(name)}/focus`, () => undefined, { json });
  }

  async watchHere(name: string, folder: string): Promise<boolean> {
    const found = await stat(folder, { bigint: true }).catch(() => undefined);
    if (found === undefined) return false;
    const body = `{"path":${JSON.stringify(folder)},"device":${found.dev},"inode":${found.ino}}`;
    try {
      await this.#json("PUT", `${workspacePath(name)}/folder`, () => undefined, { body });
      return true;
    } catch (error) {
      if (error instanceof Fault && error.status !== undefined && NO_FOLDER.has(error.status)) return false;
      throw error;
    }
  }

  async unwatch(name: string): Promise<void> {
    await orNothing(this.#json("DELETE", `${workspacePath(name)}/folder`, () => undefined));
  }

  docs(signal?: AbortSignal): Promise<readonly DocSource[]> {
    return this.#get("/api/docs", readDocs, signal);
  }

  addDocs(name: string, url: string): Promise<DocSource> {
    return this.#json("POST", "/api/docs", readDoc, { json: { name, url } });
  }

  uploadDocs(name: string, fileName: string, content: Uint8Array): Promise<DocSource> {
    const query = new URLSearchParams({ name, file: fileName });
    const headers = { "content-type": "application/octet-stream" };
    return this.#json("POST", `/api/docs/upload?${query}`, readDoc, { body: content, headers, idleMs: UPLOAD_IDLE_MS });
  }

  doc(id: string): Promise<DocSource | undefined> {
    return orNothing(this.#get(docPath(id), readDoc));
  }

  async cancelDocs(id: string): Promise<void> {
    await this.#json("POST", `${docPath(id)}/cancel`, () => undefined);
  }

  async refreshDocs(id: string): Promise<void> {
    await this.#json("POST", `${docPath(id)}/refresh`, () => undefined);
  }

  async removeDocs(id: string): Promise<void> {
    await orNothing(this.#json("DELETE", docPath(id), () => undefined));
  }

  searchDocs(
    query: string,
    sources: readonly string[],
    limit: number,
    signal?: AbortSignal,
  ): Promise<readonly DocHit[]> {
    return this.#json("POST", "/api/docs/search", readHits, { json: { query, sources, limit }, signal });
  }

  #slot(slot: string | undefined): Readonly<Record<string, string>> {
    if (slot === undefined) return {};
    const name = encodeURIComponent(slot);
    const short = name.length <= LONGEST_SLOT ? name : createHash("sha256").update(slot).digest("hex");
    return { "x-aicockpit-slot": `${this.#window}-${short}` };
  }

  #get<T>(path: string, read: (value: unknown) => T, signal?: AbortSignal): Promise<T> {
    return this.#json("GET", path, read, { signal });
  }

  /** An answer in JSON through `read`, which gets undefined for one without a body. Throws Faults. */
  async #json<T>(method: Call["method"], path: string, read: (value: unknown) => T, send: Send = {}): Promise<T> {
    const answer = await this.#good(method, path, send);
    const body = (await readAll(answer, LARGEST_JSON)).toString("utf8");
    if (body === "") return read(undefined);
    return read(parseJson(body, answer.headers["content-type"] ?? ""));
  }

  async #stream(
    path: string,
    body: Readonly<Record<string, unknown>>,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
    read: ReadChoice,
    candidates: number,
  ): Promise<Stream> {
    // Our own id: it names the request also when it is stopped before its answer begins.
    const id = `code-${randomUUID()}`;
    const json: Record<string, unknown> = { ...body, stream: true, stream_options: { include_usage: true } };
    const send = { json, headers: { ...headers, "x-request-id": id }, signal, idleMs: STREAM_IDLE_MS };
    const answer = await this.#good("POST", path, send).catch((error: unknown) => {
      if (!("workspace" in body) || !isCode(error, "workspace_not_found")) throw error;
      // Removed on the server meanwhile: no reason to leave the user without an answer.
      const { workspace: _workspace, path: _path, context: _context, ...bare } = json;
      return this.#good("POST", path, { ...send, json: bare });
    });
    if (!(answer.headers["content-type"] ?? "").includes("text/event-stream")) {
      parseJson(await readError(answer), answer.headers["content-type"] ?? "");
      throw new Fault("protocol", "The server did not stream its answer.", "Check the connection.");
    }
    return streamOf(answer, answer.headers["x-request-id"] ?? id, read, candidates);
  }

  async #good(method: Call["method"], path: string, send: Send): Promise<Answer> {
    const answer = await this.#send(method, path, send);
    if (answer.status >= 200 && answer.status < 300) return answer;
    throw faultOfAnswer(answer.status, answer.headers, await readError(answer), answer.where);
  }

  async #send(method: Call["method"], path: string, { json, body, headers, signal, idleMs }: Send): Promise<Answer> {
    await this.before();
    const options = this.options();
    const sent = json === undefined ? body : JSON.stringify(json);
    return await this.http.send(options, {
      method,
      path,
      headers: {
        accept: "application/json, text/event-stream",
        "accept-encoding": "identity",
        "user-agent": "aicockpit-vscode",
        ...(typeof sent === "string" && { "content-type": "application/json" }),
        ...(options.key !== "" && { authorization: `Bearer ${options.key}` }),
        ...headers,
      },
      ...(sent !== undefined && { body: sent }),
      signal,
      idleMs: idleMs ?? JSON_IDLE_MS,
    });
  }
}

function packedHeaders(type: string): Readonly<Record<string, string>> {
  return { "content-type": type, "content-encoding": "gzip" };
}

function placeOf(place: Place | undefined): Readonly<Record<string, unknown>> {
  if (place === undefined) return {};
  return {
    workspace: place.workspace,
    ...(place.path !== undefined && { path: place.path }),
    ...(place.context !== undefined && { context: place.context }),
  };
}

function workspacePath(name: string): string {
  return `/api/workspaces/${encodeURIComponent(name)}`;
}

function docPath(id: string): string {
  return `/api/docs/${encodeURIComponent(id)}`;
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Fault && error.code === code;
}

function isAboutSuffix(error: unknown): boolean {
  return error instanceof Fault && error.kind === "bad_request" && /suffix/i.test(error.message);
}

/** What the server does not have is undefined. */
async function orNothing<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof Fault && error.status === 404) return undefined;
    throw error;
  }
}
