/** What went wrong on the way to the server, by kind, in words that say what to do. */

export type FaultKind =
  | "dns" // the name is not known
  | "refused" // nobody listens there
  | "unreachable" // no route, or no answer in time
  | "tls" // a certificate that is not trusted
  | "proxy" // the proxy is in the way
  | "unauthorized" // 401: no key, or a wrong one
  | "forbidden" // 403
  | "not_found" // 404 of a route: not an AiCockpit server, or an older one
  | "no_model" // no model is served (yet), or none of that name
  | "busy" // 429, 503 with Retry-After: try again
  | "bad_request" // 400, 413, 422: the request is wrong
  | "conflict" // 409
  | "superseded" // a newer request in the same slot took its place
  | "server" // 5xx
  | "protocol"; // the answer makes no sense

/** An error of the way to the server. `message` is one sentence; `fix` says what to do. */
export class Fault extends Error {
  override readonly name = "Fault";
  constructor(
    readonly kind: FaultKind,
    message: string,
    readonly fix: string,
    /** HTTP status, and the server's own code, where there was an answer. */
    readonly status?: number,
    readonly code?: string,
    /** Seconds after which to try again, where the server said so. */
    readonly retryAfterS?: number,
  ) {
    super(message);
  }
}

/** An aborted request is nobody's fault. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}
