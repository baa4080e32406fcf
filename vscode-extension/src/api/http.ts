/** The one way of all requests: keep-alive connections, proxy, own certificates, limits, and an abort that is felt at once. */

import { ClientRequest, type ClientRequestArgs, type IncomingMessage, Agent as PlainAgent } from "node:http";
import { Agent as SecureAgent } from "node:https";
import type { Socket } from "node:net";
import { type SecureContext, TLSSocket } from "node:tls";
import { HttpsProxyAgent } from "https-proxy-agent";
import { hostOf, isLoopback, parseAddress, portOf } from "./address";
import { Fault, isAbort } from "./fault";
import { aborted, faultOf, faultOfProxy, tooSlow, type Where } from "./faults";
import { chooseProxy, type ProxyChoice, type ProxySources, shownProxy } from "./proxy";
import { secureContext, stampOf } from "./trust";

/** A server, and how it is reached. */
export interface Server {
  readonly address: string;
  /** PEM file to trust besides the system's; empty: none. */
  readonly caFile: string;
  readonly proxy: ProxySources;
  /** The editor's name of the remote this runs on; undefined: a local editor. For the words of faults only. */
  readonly remoteName: string | undefined;
}

/** One request. The body must be whole, so that it can be sent again on a fresh connection. */
export interface Call {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** Below the server's address, with its query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds without a byte in either direction. */
  readonly idleMs: number;
}

/** An answer whose body comes as it is read. */
export interface Answer {
  readonly status: number;
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string>>;
  /** It came over a connection that was open already. */
  readonly reused: boolean;
  /** When the server's certificate ends, in milliseconds of Unix time; undefined: plain http. Ask before reading. */
  certificateEnds(): number | undefined;
  readonly where: Where;
  /** To be read once. Leaving early ends the connection, and so the request at the engine. Throws Faults, AbortError. */
  chunks(): AsyncGenerator<Buffer, void, void>;
  /**
   * Nothing more of it is wanted, but it is as good as complete: keep the connection if it ends soon. Resolves when the
   * connection is free for the next request, or after a few milliseconds, whichever comes first. Leave `chunks` before.
   */
  finish(): Promise<void>;
}

/** Milliseconds. */
export interface Limits {
  readonly connectMs: number;
  readonly finishMs: number;
  /** An unused connection is closed after this; the gateway keeps it for 75 s. */
  readonly keepMs: number;
}

const LIMITS: Limits = { connectMs: 5_000, finishMs: 1_000, keepMs: 60_000 };
const SPARE = 4;
const GRACE_MS = 25;

/** Connections to one server as it is set now; other settings, other connections. */
interface Line {
  readonly key: string;
  readonly base: URL;
  readonly choice: ProxyChoice;
  readonly agent: PlainAgent;
  readonly context: SecureContext | undefined;
  readonly where: (target: URL) => Where;
}

/** The proxy's agent knows of the certificates only what stands in the request. */
type RequestArgs = ClientRequestArgs & { readonly secureContext?: SecureContext };

/** A kept connection had been closed before the request was seen. */
class Stale extends Error {}

export class Http {
  #line: Line | undefined;
  #replacing = false;

  constructor(private readonly limits: Limits = LIMITS) {}

  /** The answer's head. Throws a Fault when there is none, and an AbortError when the signal was aborted. */
  async send(server: Server, call: Call): Promise<Answer> {
    const line = this.#lineTo(server);
    const target = new URL(line.base.href.replace(/\/$/, "") + call.path);
    const where = line.where(target);
    try {
      return await this.#exchange(line, target, where, call);
    } catch (error) {
      if (!(error instanceof Stale)) throw isAbort(error) ? error : faultOf(error, where);
    }
    // Nothing was answered, so nothing was done: once more, and not on another connection of that age.
    closeUnused(line.agent);
    try {
      return await this.#exchange(line, target, where, call);
    } catch (error) {
      if (error instanceof Stale) throw faultOf(error.cause, where);
      throw isAbort(error) ? error : faultOf(error, where);
    }
  }

  /** Read settings and certificates anew at the next request; requests on their way go on. */
  reset(): void {
    if (this.#line !== undefined) closeUnused(this.#line.agent);
    this.#line = undefined;
  }

  /** Ends all connections. */
  dispose(): void {
    this.#line?.agent.destroy();
    this.#line = undefined;
  }

  /**
   * An abort ends a connection, and who types aborts at each key: have the next one open before it is needed, or each
   * request begins with one or two ways to the server and back. On this machine that costs nothing worth saving.
   */
  #replace(line: Line): void {
    if (this.#replacing || this.#line !== line || isLoopback(hostOf(line.base)) || hasUnused(line.agent)) return;
    this.#replacing = true;
    const target = new URL(`${line.base.href.replace(/\/$/, "")}/health`);
    this.#exchange(line, target, line.where(target), {
      method: "GET",
      path: "",
      headers: {},
      idleMs: this.limits.connectMs,
    })
      .then((answer) => readError(answer))
      .catch(() => {}) // it was for later; who needs a connection then will hear why there is none
      .finally(() => {
        this.#replacing = false;
      });
  }

  #lineTo(server: Server): Line {
    const base = parseAddress(server.address);
    const choice = chooseProxy(base, server.proxy);
    const key = [base.href, choice.proxy?.href ?? "", stampOf(server.caFile), server.remoteName ?? ""].join("\n");
    if (this.#line?.key === key) return this.#line;
    const context = needsTls(base, choice) ? secureContext(server.caFile, server.proxy.env) : undefined;
    const agent = agentFor(base, choice, context, this.limits.keepMs);
    const proxy = choice.proxy === undefined ? undefined : `${shownProxy(choice.proxy)} (${choice.why})`;
    this.reset();
    this.#line = {
      key,
      base,
      choice,
      agent,
      context,
      where: (target) => ({ target, remoteName: server.remoteName, proxy }),
    };
    return this.#line;
  }

  #exchange(line: Line, target: URL, where: Where, call: Call): Promise<Answer> {
    const { limits } = this;
    return new Promise((resolve, reject) => {
      if (call.signal?.aborted) return reject(aborted());
      let response: IncomingMessage | undefined;
      let connected = false;
      // Not the exported `request`: editors replace that one with their own agent, and our connections and proxy are lost.
      const request = new ClientRequest(argumentsOf(line, target, call));
      const end = (error: Error) => {
        if (response !== undefined) return void response.destroy(error);
        request.destroy(error);
        reject(error); // without a socket yet, the request itself would tell only once it has one
        forget();
      };
      const timer = setTimeout(() => end(tooSlow(where, limits.connectMs / 1000, false)), limits.connectMs);
      const whenConnected = () => {
        connected = true;
        clearTimeout(timer);
      };
      const onAbort = () => {
        end(aborted());
        this.#replace(line);
      };
      const forget = () => {
        clearTimeout(timer);
        call.signal?.removeEventListener("abort", onAbort);
      };
      call.signal?.addEventListener("abort", onAbort, { once: true });
      request.once("socket", (socket: Socket) => watch(socket, request.reusedSocket, whenConnected));
      request.once("proxyConnect", (answer: { statusCode: number; statusText: string }) => {
        if (answer.statusCode === 200) return;
        end(faultOfProxy(where, `it answers ${answer.statusCode} ${answer.statusText}`.trim(), answer.statusCode));
      });
      request.on("timeout", () => {
        if (connected) end(tooSlow(where, call.idleMs / 1000, true));
      });
      request.on("error", (error) => {
        const stale = request.reusedSocket && response === undefined && isReset(error);
        reject(stale ? new Stale("", { cause: error }) : error);
      });
      request.once("response", (message: IncomingMessage) => {
        response = message;
        whenConnected();
        if (message.statusCode === 407) {
          message.destroy();
          return reject(faultOfProxy(where, "", 407));
        }
        message.on("error", () => {}); // whoever reads the body is told; nobody may be reading
        resolve(answerOf(message, where, request.reusedSocket, call.signal, limits.finishMs));
      });
      request.once("close", forget);
      request.end(call.body);
    });
  }
}

function needsTls(base: URL, choice: ProxyChoice): boolean {
  return base.protocol === "https:" || choice.proxy?.protocol === "https:";
}

function agentFor(base: URL, choice: ProxyChoice, context: SecureContext | undefined, keepMs: number): PlainAgent {
  const kept = { keepAlive: true, maxFreeSockets: SPARE, scheduling: "lifo", timeout: keepMs } as const;
  const secure = { ...kept, ...(context !== undefined && { secureContext: context }) };
  if (choice.proxy === undefined) return base.protocol === "https:" ? new SecureAgent(secure) : new PlainAgent(kept);
  if (base.protocol === "http:")
    return choice.proxy.protocol === "https:" ? new SecureAgent(secure) : new PlainAgent(kept);
  const agent = new HttpsProxyAgent(choice.proxy.href, secure);
  agent.protocol = "https:"; // else it looks at the call stack for Node's own `https.request`
  return agent;
}

/** To the server itself, or, for plain http, to the proxy with the whole URL as path. */
function argumentsOf({ agent, context, choice: { proxy } }: Line, target: URL, call: Call): RequestArgs {
  const forwarded = proxy !== undefined && target.protocol === "http:" ? proxy : undefined;
  const hop = forwarded ?? target;
  const headers: Record<string, string | number> = { ...call.headers, host: target.host };
  if (call.body !== undefined) headers["content-length"] = Buffer.byteLength(call.body);
  else if (call.method === "POST" || call.method === "PUT") headers["content-length"] = 0;
  if (forwarded !== undefined && (forwarded.username !== "" || forwarded.password !== "")) {
    const pair = `${decodeURIComponent(forwarded.username)}:${decodeURIComponent(forwarded.password)}`;
    headers["proxy-authorization"] = `Basic ${Buffer.from(pair).toString("base64")}`;
  }
  return {
    agent,
    protocol: hop.protocol,
    host: hostOf(hop),
    port: portOf(hop),
    method: call.method,
    path: forwarded === undefined ? target.pathname + target.search : target.href,
    headers,
    timeout: call.idleMs,
    ...(context !== undefined && { secureContext: context }),
  };
}

function watch(socket: Socket, reused: boolean, connected: () => void): void {
  socket.setNoDelay(true);
  if (reused) connected();
  else if (socket instanceof TLSSocket) socket.once("secureConnect", connected);
  else if (socket.connecting) socket.once("connect", connected);
  else connected();
}

function answerOf(
  message: IncomingMessage,
  where: Where,
  reused: boolean,
  signal: AbortSignal | undefined,
  finishMs: number,
): Answer {
  let finishing: Promise<void> | undefined;
  const finish = () => {
    finishing ??= drain(message, finishMs);
    return finishing;
  };
  return {
    status: message.statusCode ?? 0,
    headers: flatten(message),
    reused,
    certificateEnds: () => endOfCertificate(message.socket),
    where,
    async *chunks() {
      try {
        if (signal?.aborted) throw aborted();
        for await (const chunk of message.iterator({ destroyOnReturn: false })) yield chunk as Buffer;
      } catch (error) {
        throw signal?.aborted ? aborted() : faultOf(error, where);
      } finally {
        if (message.complete) void finish();
        else if (finishing === undefined) message.destroy();
      }
    },
    finish,
  };
}

function drain(message: IncomingMessage, finishMs: number): Promise<void> {
  if (message.readableEnded || message.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const grace = setTimeout(resolve, GRACE_MS);
    const timer = setTimeout(() => message.destroy(), finishMs);
    message.once("close", () => {
      clearTimeout(grace);
      clearTimeout(timer);
      resolve();
    });
    setImmediate(() => message.resume()); // after the reader has let go of it
  });
}

function endOfCertificate(socket: Socket): number | undefined {
  if (!(socket instanceof TLSSocket)) return undefined;
  const ends = Date.parse(socket.getPeerCertificate().valid_to ?? "");
  return Number.isNaN(ends) ? undefined : ends;
}

function flatten(message: IncomingMessage): Readonly<Record<string, string>> {
  const flat: Record<string, string> = {};
  for (const [name, value] of Object.entries(message.headers)) {
    if (value !== undefined) flat[name] = Array.isArray(value) ? value.join(", ") : value;
  }
  return flat;
}

function isReset(error: Error): boolean {
  return "code" in error && (error.code === "ECONNRESET" || error.code === "EPIPE");
}

function hasUnused(agent: PlainAgent): boolean {
  return Object.values(agent.freeSockets).some((sockets) => sockets?.some((socket) => !socket.destroyed));
}

function closeUnused(agent: PlainAgent): void {
  for (const sockets of Object.values(agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
}

/** The whole body. More than `limit` bytes is a Fault: no answer of ours is that long. */
export async function readAll(answer: Answer, limit: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const chunk of answer.chunks()) {
    parts.push(chunk);
    size += chunk.length;
    if (size > limit) {
      throw new Fault(
        "protocol",
        `The answer has more than ${limit} bytes.`,
        "Is it an AiCockpit server? Check the connection.",
      );
    }
  }
  return Buffer.concat(parts, size);
}

/** The beginning of an error's body, at most `limit` bytes; whatever breaks off is left out. */
export async function readError(answer: Answer, limit = 64 * 1024): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of answer.chunks()) {
      parts.push(chunk);
      size += chunk.length;
      if (size >= limit) break;
    }
  } catch (error) {
    if (isAbort(error)) throw error;
  }
  return Buffer.concat(parts, size).subarray(0, limit).toString("utf8");
}
