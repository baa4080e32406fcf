/** Turns what Node, a proxy or a server says into a `Fault` in words that say what to do. */

import { hostOf, isLoopback, machineOf, otherMachine, portOf } from "./address";
import { looksLikePage } from "./decode";
import { Fault, type FaultKind } from "./fault";

/** Where a request went, for the words of its fault. */
export interface Where {
  readonly target: URL;
  readonly remoteName: string | undefined;
  /** For people: `http://proxy:3128 (from HTTPS_PROXY)`; undefined: none. */
  readonly proxy: string | undefined;
}

/** What an aborted request throws; `isAbort` knows it. */
export function aborted(): Error {
  return new DOMException("The request was stopped", "AbortError");
}

/** Certificates that nobody vouches for: a CA file helps. */
export const UNTRUSTED: ReadonlySet<string> = new Set([
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
]);

const UNREACHABLE = new Set(["EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN", "ETIMEDOUT", "EADDRNOTAVAIL"]);
const TLS =
  /^(?:CERT_|ERR_TLS|ERR_SSL|EPROTO|UNABLE_TO_|DEPTH_ZERO|SELF_SIGNED|HOSTNAME_MISMATCH|INVALID_CA|PATH_LENGTH)/;
const BROKEN = new Set(["ECONNRESET", "EPIPE", "ECONNABORTED", "ERR_STREAM_PREMATURE_CLOSE"]);

/** An error of Node's sockets, TLS or parser. */
export function faultOf(error: unknown, where: Where): Fault {
  if (error instanceof Fault) return error;
  const code = codeOf(error);
  const at = `${hostOf(where.target)}:${portOf(where.target)}`;
  if (where.proxy !== undefined && isOfProxy(code, error)) return faultOfProxy(where, wordsOf(error));
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return unknownName(where, code);
  if (code === "ECONNREFUSED") return refused(where, at);
  if (UNREACHABLE.has(code)) return unreachable(where, `${at} cannot be reached`, code);
  if (code === "EACCES" || code === "EPERM")
    return unreachable(where, `This machine forbids connections to ${at}`, code);
  if (TLS.test(code)) return tlsFault(where, code, error);
  if (code.startsWith("HPE_")) return notHttp(where, code);
  if (BROKEN.has(code)) return broken(where, code);
  return new Fault(
    "unreachable",
    `The request to ${at} failed: ${wordsOf(error)}.`,
    "Check the connection.",
    undefined,
    code,
  );
}

/** No connection, or no byte, within the limit. */
export function tooSlow(where: Where, seconds: number, connected: boolean): Fault {
  const at = `${hostOf(where.target)}:${portOf(where.target)}`;
  if (connected) {
    return new Fault(
      "unreachable",
      `The server sent nothing for ${seconds} s.`,
      "It may be overloaded, or the connection is dead. Try again; the server's log says what it did.",
      undefined,
      "idle",
    );
  }
  if (where.proxy !== undefined) return faultOfProxy(where, `it gave no connection within ${seconds} s`);
  return unreachable(where, `No answer from ${at} within ${seconds} s`, "connect_timeout");
}

/** A proxy that says no: 407, 403, 502, or cannot be reached. */
export function faultOfProxy(where: Where, why: string, status?: number): Fault {
  const host = hostOf(where.target);
  if (status === 407) {
    return new Fault(
      "proxy",
      `The proxy ${where.proxy} asks for a name and password.`,
      `Put them into the proxy's address (http://NAME:PASSWORD@HOST:PORT), or name ${host} in NO_PROXY if it needs no proxy.`,
      status,
    );
  }
  return new Fault(
    "proxy",
    `The proxy ${where.proxy} does not connect to ${host}: ${why}.`,
    `If ${host} needs no proxy, name it in NO_PROXY or set aicockpit.proxy to “none”.`,
    status,
  );
}

/** An answer that is an error: by HTTP status and the server's own code. `headers` by lower-case name. */
export function faultOfAnswer(
  status: number,
  headers: Readonly<Record<string, string>>,
  body: string,
  where: Where,
): Fault {
  if (status >= 300 && status < 400) return redirected(status, headers.location ?? "", where);
  const type = headers["content-type"] ?? "";
  if (/plain HTTP request was sent to HTTPS port|speaking plain HTTP to an SSL/i.test(body)) return wantsHttps(where);
  const said = saidIn(body, type);
  const kind = kindOf(status, said.code);
  const retry = retryAfter(headers["retry-after"]);
  return new Fault(
    kind,
    messageFor(kind, status, said, where),
    fixFor(kind, said.code, retry, where),
    status,
    said.code,
    retry,
  );
}

/** The `error` of an envelope, also in the middle of a stream. */
export function faultOfEvent(error: unknown): Fault {
  const said = saidOf(error);
  const status = Number(said.code) || undefined;
  const kind = said.code === "superseded" ? "superseded" : status !== undefined ? kindOf(status, said.code) : "server";
  return new Fault(
    kind,
    said.message ? sentence(said.message) : "The server broke off the answer.",
    fixFor(kind, said.code),
    status,
    said.code,
  );
}

interface Said {
  readonly message: string;
  readonly code: string | undefined;
}

function saidIn(body: string, type: string): Said {
  if (looksLikePage(body, type)) return { message: "", code: "html" };
  try {
    const found: unknown = JSON.parse(body);
    if (typeof found === "object" && found !== null && "error" in found) return saidOf(found.error);
    return saidOf(found);
  } catch {
    return { message: body.replace(/\s+/g, " ").trim().slice(0, 200), code: undefined };
  }
}

function saidOf(error: unknown): Said {
  if (typeof error === "string") return { message: error, code: undefined };
  if (typeof error !== "object" || error === null) return { message: "", code: undefined };
  const { message, detail, code } = error as { message?: unknown; detail?: unknown; code?: unknown };
  const text = typeof message === "string" ? message : typeof detail === "string" ? detail : "";
  return {
    message: text.slice(0, 2000),
    code: typeof code === "string" || typeof code === "number" ? String(code) : undefined,
  };
}

function kindOf(status: number, code: string | undefined): FaultKind {
  if (code === "superseded") return "superseded";
  if (status === 401) return "unauthorized";
  if (status === 403) return "forbidden";
  if (status === 404) return code === "model_not_found" ? "no_model" : "not_found";
  if (status === 409) return "conflict";
  if (status === 429 || status === 503) return "busy";
  if (status >= 500) return "server";
  return "bad_request";
}

function messageFor(kind: FaultKind, status: number, said: Said, where: Where): string {
  if (kind === "unauthorized") {
    return said.code === "missing_api_key" ? "The server asks for a key." : "The server does not know this key.";
  }
  if (said.message !== "") return sentence(said.message);
  if (kind === "not_found") return `There is no ${where.target.pathname} at ${where.target.origin}.`;
  if (said.code === "html") return `The server answered ${status} with a web page.`;
  return `The server answered ${status} without a word.`;
}

function fixFor(kind: FaultKind, code: string | undefined, retryAfterS?: number, where?: Where): string {
  switch (kind) {
    case "unauthorized":
      return (
        "Run “AiCockpit: Enter the Key”. The server prints its key when it starts; " +
        "`aicockpit keys create NAME` makes one that stays."
      );
    case "forbidden":
      return code === "foreign_origin"
        ? "Reach the server as 127.0.0.1, or let it ask for keys (without AICOCKPIT_AUTH=off)."
        : "This key may not do that: take another, or ask the server's operator.";
    case "no_model":
      return "Choose a model that is served in aicockpit.completion.model and aicockpit.chat.model, or leave them empty.";
    case "not_found":
      return code === undefined || code === "no_route" || code === "html"
        ? `Is ${where?.target.origin ?? "the address"} an AiCockpit server, and new enough? Check the connection.`
        : "It may have been removed on the server.";
    case "busy":
      return retryAfterS === undefined ? "Try again in a moment." : `Try again in ${Math.ceil(retryAfterS)} s.`;
    case "conflict":
      return "Try again; it was changed meanwhile.";
    case "superseded":
      return "Nothing to do: a newer request took its place.";
    case "server":
      return "The server's log says more. Try again.";
    default:
      return "The message says what is wrong. If you did nothing unusual, this extension and the server may not fit.";
  }
}

function redirected(status: number, location: string, where: Where): Fault {
  const there = URL.canParse(location, where.target.href) ? new URL(location, where.target.href) : undefined;
  const origin = there === undefined || there.origin === where.target.origin ? undefined : there.origin;
  return new Fault(
    "protocol",
    `The server sends us on to ${origin ?? "another place"} (${status}), which is not followed: the key is only for the address you gave.`,
    origin === undefined ? "Give the server's own address." : `If that is your server, give ${origin} as its address.`,
    status,
    "redirect",
  );
}

function unknownName(where: Where, code: string): Fault {
  const host = hostOf(where.target);
  const asked = `${host} is not known to ${machineOf(where.remoteName)}.`;
  const later =
    code === "EAI_AGAIN"
      ? "The name service does not answer: is the network up? Else check the spelling"
      : "Check the spelling";
  return new Fault("dns", asked, `${later}, or give the server's IP address. A VPN may be off.`, undefined, code);
}

function refused(where: Where, at: string): Fault {
  const local = isLoopback(hostOf(where.target));
  const start = local
    ? "Start the server there (aicockpit serve) and compare the port it prints."
    : "Is the server started, on this port? A server for other machines needs AICOCKPIT_HOST=0.0.0.0.";
  const other = local ? otherMachine(where.remoteName, portOf(where.target)) : "";
  const message = local
    ? `Nothing listens at ${at} on ${machineOf(where.remoteName)}.`
    : `${at} refuses connections, as seen from ${machineOf(where.remoteName)}.`;
  return new Fault("refused", message, [start, other].filter(Boolean).join(" "), undefined, "ECONNREFUSED");
}

function unreachable(where: Where, what: string, code: string): Fault {
  const fix = "Is that machine on, is a VPN needed, does a firewall stand in between?";
  return new Fault("unreachable", `${what}, as seen from ${machineOf(where.remoteName)}.`, fix, undefined, code);
}

function tlsFault(where: Where, code: string, error: unknown): Fault {
  const host = hostOf(where.target);
  const make = (message: string, fix: string) => new Fault("tls", message, fix, undefined, code);
  if (/wrong.version.number|packet.length.too.long|http.request/i.test(`${code} ${wordsOf(error)}`)) {
    const plain = `http://${where.target.host}`;
    return make(`${where.target.host} does not speak https.`, `It may speak plain http: try ${plain} as the address.`);
  }
  if (UNTRUSTED.has(code)) {
    const whose =
      code === "DEPTH_ZERO_SELF_SIGNED_CERT"
        ? "signed only by itself"
        : "signed by an authority that is not trusted here";
    return make(
      `The certificate of ${host} is ${whose}.`,
      "Get its certificate, or its authority's, from whoever runs the server, and give the file in aicockpit.caFile.",
    );
  }
  if (code === "CERT_HAS_EXPIRED") {
    return make(
      `The certificate of ${host} has expired.`,
      "Renew it on the server; if it is new, look at this machine's clock.",
    );
  }
  if (code === "CERT_NOT_YET_VALID") {
    return make(`The certificate of ${host} is not valid yet.`, "Look at the clocks of this machine and the server.");
  }
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    const names = namesOf(error);
    const use = names === "" ? "its own name" : names;
    return make(
      `The certificate is not for ${host}${names === "" ? "" : `, but for ${names}`}.`,
      `Reach the server as ${use}.`,
    );
  }
  return make(
    `No safe connection to ${host}: ${wordsOf(error)}.`,
    "The server's TLS settings or a device in between are in the way.",
  );
}

function notHttp(where: Where, code: string): Fault {
  if (where.target.protocol === "http:") return wantsHttps(where, code);
  return new Fault("protocol", `${where.target.host} does not speak HTTP.`, "Check the port.", undefined, code);
}

function wantsHttps(where: Where, code = "wants_https"): Fault {
  const secure = `https://${where.target.host}`;
  const message = `${where.target.host} does not speak plain http.`;
  return new Fault(
    "protocol",
    message,
    `It may speak https: try ${secure} as the address. Else check the port.`,
    undefined,
    code,
  );
}

function broken(where: Where, code: string): Fault {
  const message = `The connection to ${where.target.host} broke before the answer was complete.`;
  const fix =
    where.target.protocol === "http:"
      ? "The server may have stopped, or it speaks https: then write https:// in the address. Try again."
      : "The server may have stopped, or its port belongs to another program. Try again; its log says more.";
  return new Fault("unreachable", message, fix, undefined, code);
}

/** Before the target's own TLS or HTTP can fail, the proxy has to be reached. */
function isOfProxy(code: string, error: unknown): boolean {
  const early = ["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED"].includes(code) || UNREACHABLE.has(code);
  return early || /proxy/i.test(wordsOf(error));
}

function codeOf(error: unknown): string {
  if (typeof error !== "object" || error === null || !("code" in error)) return "";
  return typeof error.code === "string" ? error.code : "";
}

function wordsOf(error: unknown): string {
  const whole = error instanceof Error ? error.message : String(error);
  const text = /SSL routines:[^:]*:([^:]+)/.exec(whole)?.[1] ?? whole;
  return text.replace(/\s+/g, " ").trim().replace(/\.$/, "").slice(0, 200) || codeOf(error) || "no reason was given";
}

function namesOf(error: unknown): string {
  if (typeof error !== "object" || error === null || !("cert" in error)) return "";
  const { subjectaltname } = error.cert as { subjectaltname?: unknown };
  if (typeof subjectaltname !== "string") return "";
  const names = subjectaltname.split(/,\s*/).map((name) => name.replace(/^(?:DNS|IP Address):/, ""));
  return names.length > 4 ? `${names.slice(0, 4).join(", ")}, …` : names.join(", ");
}

function retryAfter(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const seconds = Number(value);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - Date.now()) / 1000);
}

function sentence(text: string): string {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?…]$/.test(trimmed) ? "" : "."}`;
}
