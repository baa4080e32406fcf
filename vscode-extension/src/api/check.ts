/** Tries a server step by step, with the requests that are used later too, and says what to do about what fails. */

import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { hostOf, isPrivate, normalAddress, parseAddress } from "./address";
import { createGateway, type Options, type Sighting } from "./client";
import { collect } from "./collect";
import { parseJson } from "./decode";
import { Fault, isAbort } from "./fault";
import { aborted, faultOf, faultOfAnswer, UNTRUSTED } from "./faults";
import type { Gateway, Model } from "./gateway";
import { type Answer, Http, readError } from "./http";
import { pickModel } from "./pick";
import { chooseProxy, shownProxy } from "./proxy";

export type StepId = "address" | "name" | "reach" | "tls" | "server" | "key" | "model" | "completion" | "speed";

/** What one step came to. After a `fail` no further step follows. */
export interface Step {
  readonly id: StepId;
  readonly title: string;
  readonly state: "ok" | "warn" | "fail";
  readonly what: string;
  /** Empty where nothing is to be done. */
  readonly fix: string;
  /** What the user may be offered to change. */
  readonly offer?: "address" | "key" | "caFile" | "proxy";
  /** An address that works better. */
  readonly suggestion?: string;
}

/** Of a check. `completionModel`: the settings'; empty: the server's. */
export interface CheckParts {
  readonly completionModel: string;
  readonly signal: AbortSignal;
  readonly http?: Http;
  /** Of the first token of the probe, in milliseconds. */
  readonly probeMs?: number;
}

const TITLES: Readonly<Record<StepId, string>> = {
  address: "Address",
  name: "Name",
  reach: "Connection",
  tls: "Certificate",
  server: "Server",
  key: "Key",
  model: "Model",
  completion: "Completion",
  speed: "Speed",
};
const PREFIX = "def add(a, b):\n    return ";
const SUFFIX = "\n\n\nprint(add(1, 2))\n";
const NO_FIM: ReadonlySet<string> = new Set(["none", "plain", "plain-files"]);
const PROBE_MS = 60_000;
const LOOKUP_MS = 5_000;
const SLOW_MS = 1_000;
const SOON_MS = 14 * 24 * 3600 * 1000;
const DAY = 10;

/** Yields each step as it ends; throws only an AbortError. */
export async function* check(options: Options, parts: CheckParts): AsyncGenerator<Step, void, void> {
  const http = parts.http ?? new Http();
  try {
    yield* checkAll(options, parts, http);
  } catch (error) {
    if (!(error instanceof StepFailed)) throw error;
    yield error.step;
  } finally {
    if (parts.http === undefined) http.dispose();
  }
}

/** Ends the check: the step that did not pass. */
class StepFailed extends Error {
  constructor(readonly step: Step) {
    super(step.what);
  }
}

async function* checkAll(options: Options, parts: CheckParts, http: Http): AsyncGenerator<Step, void, void> {
  const { signal } = parts;
  const url = await attempt("address", async () => parseAddress(options.address));
  yield good("address", `${normalAddress(options.address)}${remark(url)}.`);
  yield* checkName(url, options, signal);
  const answer = yield* reach(url, options, signal, http);
  yield* identify(answer, options, signal, http);
  const gateway = createGateway(() => options, http);
  const sighting = await attempt("key", () => gateway.look(signal));
  yield good("key", options.key === "" ? "The server asks for none." : "The server knows it.");
  const model = pickModel(sighting.models, "completion", parts.completionModel);
  yield checkModel(sighting, model, parts.completionModel);
  if (model === undefined || !sighting.ready) return;
  yield* probe(gateway, model, signal, parts.probeMs ?? PROBE_MS);
}

function remark(url: URL): string {
  return isPrivate(url.href) ? "" : " (not encrypted: for networks that you trust)";
}

async function* checkName(url: URL, options: Options, signal: AbortSignal): AsyncGenerator<Step, void, void> {
  const host = hostOf(url);
  const { proxy } = await attempt("reach", async () => chooseProxy(url, options.proxy), "proxy");
  if (isIP(host) !== 0 || proxy !== undefined) return;
  const where = { target: url, remoteName: options.remoteName, proxy: undefined };
  const found = await attempt("name", async () => {
    try {
      return await within(lookup(host, { all: true }), LOOKUP_MS, signal);
    } catch (error) {
      throw isAbort(error) ? error : faultOf(error, where);
    }
  });
  yield good(
    "name",
    `${host} is ${found
      .slice(0, 3)
      .map((one) => one.address)
      .join(", ")}.`,
  );
}

async function* reach(url: URL, options: Options, signal: AbortSignal, http: Http): AsyncGenerator<Step, Answer, void> {
  const { proxy, why } = chooseProxy(url, options.proxy);
  const began = performance.now();
  let answer: Answer;
  try {
    answer = await get(http, options, "/ready", signal);
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    throw await explain(error, url, options, signal, http);
  }
  const spent = `${Math.round(performance.now() - began)} ms`;
  yield good(
    "reach",
    proxy === undefined ? `Answered within ${spent}.` : `Through ${shownProxy(proxy)} (${why}), within ${spent}.`,
  );
  const ends = answer.certificateEnds();
  if (ends !== undefined) yield certificate(ends);
  return answer;
}

function certificate(ends: number): Step {
  const until = `Trusted, valid until ${new Date(ends).toISOString().slice(0, DAY)}.`;
  return ends - Date.now() < SOON_MS ? note("tls", until, "It ends soon: renew it on the server.") : good("tls", until);
}

/** A fault on the way, as the step that it belongs to; a server that speaks the other of http and https is told so. */
async function explain(fault: Fault, url: URL, options: Options, signal: AbortSignal, http: Http): Promise<StepFailed> {
  const doubtful = fault.kind === "protocol" || fault.kind === "tls" || fault.code === "ECONNRESET";
  const other =
    doubtful && !UNTRUSTED.has(fault.code ?? "") ? await otherScheme(url, options, signal, http) : undefined;
  if (other !== undefined) {
    const what = `${url.host} speaks ${other.protocol.slice(0, -1)}, not ${url.protocol.slice(0, -1)}.`;
    const suggestion = normalAddress(other.href);
    return new StepFailed({ ...bad("reach", what, `Use ${suggestion} as the address.`), offer: "address", suggestion });
  }
  if (fault.kind === "tls") return new StepFailed({ ...failed("tls", fault, "caFile"), fix: fixOfTls(fault, url) });
  if (fault.kind === "dns") return new StepFailed(failed("name", fault, "address"));
  if (fault.kind === "protocol") return new StepFailed(failed("server", fault, "address"));
  return new StepFailed(failed("reach", fault, fault.kind === "proxy" ? "proxy" : "address"));
}

function fixOfTls(fault: Fault, url: URL): string {
  if (!UNTRUSTED.has(fault.code ?? "") || fault.code === "SELF_SIGNED_CERT_IN_CHAIN") return fault.fix;
  const at = `${hostOf(url)}:${url.port || 443}`;
  return `${fault.fix} To fetch it yourself: openssl s_client -connect ${at} </dev/null | openssl x509 > server.pem; then compare it with the server's.`;
}

async function otherScheme(url: URL, options: Options, signal: AbortSignal, http: Http): Promise<URL | undefined> {
  const other = new URL(`${url.protocol === "http:" ? "https:" : "http:"}${url.href.slice(url.protocol.length)}`);
  try {
    // Without the key: this address is a guess.
    await readError(await get(http, { ...options, address: other.href, key: "" }, "/ready", signal));
    return other;
  } catch (error) {
    if (isAbort(error)) throw error;
    const speaks =
      error instanceof Fault && (UNTRUSTED.has(error.code ?? "") || /^(?:CERT_|ERR_TLS_CERT)/.test(error.code ?? ""));
    return speaks ? other : undefined;
  }
}

async function* identify(
  answer: Answer,
  options: Options,
  signal: AbortSignal,
  http: Http,
): AsyncGenerator<Step, void, void> {
  const said = await attempt("server", () => readError(answer), "address");
  if (isReadiness(said)) return yield good("server", "It is an AiCockpit server.");
  const list = await attempt("server", () => get(http, options, "/v1/models", signal), "address");
  const body = await attempt("server", () => readError(list), "address");
  if (!isOpenAi(list.status, body)) {
    const telling = list.status < 300 ? answer : list;
    const fault = await attempt("server", async () => notOurs(telling, telling === list ? body : said), "address");
    throw new StepFailed(failed("server", fault, "address"));
  }
  const version = await versionOf(http, options, signal);
  yield note(
    "server",
    `An OpenAI-compatible server${version}, not AiCockpit: completion and chat work, a warm repository and documentation do not.`,
    "For those, put AiCockpit in front of it: AICOCKPIT_ENGINE_URLS with its address, and aicockpit serve.",
  );
}

function isReadiness(body: string): boolean {
  const found = quietJson(body);
  return typeof found === "object" && found !== null && "ready" in found && typeof found.ready === "boolean";
}

/** A list of models, or an OpenAI error that asks for a key. */
function isOpenAi(status: number, body: string): boolean {
  const found = quietJson(body);
  if (typeof found !== "object" || found === null) return false;
  return status === 200
    ? "data" in found && Array.isArray(found.data)
    : (status === 401 || status === 403) && "error" in found;
}

/** What stands there instead. Throws the Fault of JSON that is none. */
function notOurs(answer: Answer, body: string): Fault {
  if (answer.status >= 300) return faultOfAnswer(answer.status, answer.headers, body, answer.where);
  parseJson(body, answer.headers["content-type"] ?? "");
  return new Fault(
    "protocol",
    "Something else answers there: neither an AiCockpit nor an OpenAI-compatible server.",
    "Check the port. `aicockpit serve` prints the address.",
  );
}

async function versionOf(http: Http, options: Options, signal: AbortSignal): Promise<string> {
  try {
    const answer = await get(http, options, "/version", signal);
    const found = quietJson(await readError(answer));
    const has = answer.status === 200 && typeof found === "object" && found !== null && "version" in found;
    return has && typeof found.version === "string" ? ` (vLLM ${found.version.slice(0, 40)})` : "";
  } catch (error) {
    if (isAbort(error)) throw error;
    return "";
  }
}

function checkModel({ models, ready, reason }: Sighting, model: Model | undefined, named: string): Step {
  const names = models.map((one) => one.id);
  const list = `${names.slice(0, 5).join(", ")}${names.length > 5 ? ", …" : ""}`;
  if (!ready) {
    const what = `No model can answer yet: ${reason || "the server does not say why"}.`;
    return note(
      "model",
      what,
      "Loading takes minutes; the status bar shows when it is done. The server's log says more.",
    );
  }
  if (model === undefined) {
    return bad(
      "model",
      names.length === 0 ? "No model is served." : `None of the models (${list}) writes text.`,
      "Serve one: MODEL_NAME of aicockpit serve.",
    );
  }
  if (named !== "" && !names.includes(named) && !named.includes("@")) {
    return note(
      "model",
      `${named} (aicockpit.completion.model) is not served; served: ${list}.`,
      "Choose one of these, or leave the setting empty.",
    );
  }
  const size = model.maxLength === undefined ? "" : ` (${model.maxLength.toLocaleString("en-US")} tokens)`;
  const others = names.filter((name) => name !== model.id);
  return good("model", `${model.id}${size}${others.length === 0 ? "" : `; also ${others.slice(0, 4).join(", ")}`}.`);
}

async function* probe(
  gateway: Gateway,
  model: Model,
  signal: AbortSignal,
  limitMs: number,
): AsyncGenerator<Step, void, void> {
  const first = await attempt("completion", () => complete(gateway, model, signal, limitMs));
  const form = first.fim;
  if (form === undefined) {
    yield note(
      "completion",
      "This model has no fill-in-the-middle: completions go on from the text before the cursor.",
      "A code model that has it (Qwen2.5-Coder, for one) completes better.",
    );
  } else yield good("completion", `Works, with what follows the cursor (${form}).`);
  const again = await attempt("speed", () => complete(gateway, model, signal, limitMs));
  const times = `First token after ${Math.round(first.ms)} ms, then after ${Math.round(again.ms)} ms.`;
  yield again.ms > SLOW_MS
    ? note("speed", times, "That is slow: the network, or a server that is busy or has no GPU.")
    : good("speed", times);
}

async function complete(
  gateway: Gateway,
  model: Model,
  signal: AbortSignal,
  limitMs: number,
): Promise<{ ms: number; fim: string | undefined }> {
  const limit = AbortSignal.timeout(limitMs);
  const began = performance.now();
  try {
    const request = { model: model.id, prefix: PREFIX, suffix: SUFFIX, maxTokens: 1 };
    const stream = await gateway.complete(request, AbortSignal.any([signal, limit]));
    await collect(stream);
    const form = stream.headers["x-aicockpit-fim"];
    return { ms: performance.now() - began, fim: form === undefined || NO_FIM.has(form) ? undefined : form };
  } catch (error) {
    if (!isAbort(error) || signal.aborted) throw error;
    throw new Fault(
      "unreachable",
      `No token came within ${limitMs / 1000} s.`,
      "The server may be overloaded or still loading: its log says more.",
    );
  }
}

function get(http: Http, options: Options, path: string, signal: AbortSignal): Promise<Answer> {
  const headers: Record<string, string> = { accept: "application/json", "accept-encoding": "identity" };
  // `/ready` asks for no key, and whose server it is, is not known yet.
  if (options.key !== "" && path !== "/ready") headers.authorization = `Bearer ${options.key}`;
  return http.send(options, { method: "GET", path, headers, signal, idleMs: 20_000 });
}

/** What a step needs, or its failure as the end of the check. */
async function attempt<T>(id: StepId, work: () => Promise<T>, offer?: Step["offer"]): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    throw new StepFailed(
      failed(id, error, error.kind === "unauthorized" || error.kind === "forbidden" ? "key" : offer),
    );
  }
}

function within<T>(work: Promise<T>, limitMs: number, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const slow = () => reject(Object.assign(new Error("the name service does not answer"), { code: "EAI_AGAIN" }));
    const timer = setTimeout(slow, limitMs);
    const onAbort = () => reject(aborted());
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    });
  });
}

function quietJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

function good(id: StepId, what: string): Step {
  return { id, title: TITLES[id], state: "ok", what, fix: "" };
}

function note(id: StepId, what: string, fix: string): Step {
  return { id, title: TITLES[id], state: "warn", what, fix };
}

function bad(id: StepId, what: string, fix: string): Step {
  return { id, title: TITLES[id], state: "fail", what, fix };
}

function failed(id: StepId, fault: Fault, offer: Step["offer"]): Step {
  return { ...bad(id, fault.message, fault.fix), ...(offer !== undefined && { offer }) };
}
