/** A gateway for tests: what a test does not give throws. */

import type { Gateway, Piece, Stream, Usage } from "../../src/api/gateway";

/** Every method that `overrides` lacks throws, so that a test sees the call it did not expect. */
export function fakeGateway(overrides: Partial<Gateway> = {}): Gateway {
  const refuse = (name: string) => async (): Promise<never> => {
    throw new Error(`the test did not expect gateway.${name}()`);
  };
  return {
    address: "http://127.0.0.1:8000",
    models: refuse("models"),
    complete: refuse("complete"),
    chat: refuse("chat"),
    account: refuse("account"),
    workspace: refuse("workspace"),
    createWorkspace: refuse("createWorkspace"),
    deleteWorkspace: refuse("deleteWorkspace"),
    manifest: refuse("manifest"),
    blobs: refuse("blobs"),
    focus: refuse("focus"),
    watchHere: refuse("watchHere"),
    unwatch: refuse("unwatch"),
    docs: refuse("docs"),
    addDocs: refuse("addDocs"),
    uploadDocs: refuse("uploadDocs"),
    doc: refuse("doc"),
    cancelDocs: refuse("cancelDocs"),
    refreshDocs: refuse("refreshDocs"),
    removeDocs: refuse("removeDocs"),
    searchDocs: refuse("searchDocs"),
    ...overrides,
  };
}

export interface StreamOptions {
  /** Comes with an empty last piece, as the server sends it. */
  readonly usage?: Usage;
  readonly headers?: Readonly<Record<string, string>>;
  /** Before each piece. */
  readonly delayMs?: number;
  readonly requestId?: string;
  /** Of the last piece with text; `stop` unless told. */
  readonly finish?: string;
  /** Thrown after the texts. */
  readonly error?: Error;
  /** Aborting it ends the stream with an AbortError, as the real one does. */
  readonly signal?: AbortSignal;
  /** Told when the reader has left, by the end, by an error or by leaving the loop. */
  readonly onEnd?: () => void;
}

/** A stream of these texts, all of candidate 0. */
export function streamOf(texts: readonly string[], options: StreamOptions = {}): Stream {
  const pieces: Piece[] = texts.map((text, at) =>
    at === texts.length - 1 && options.error === undefined
      ? { text, index: 0, finish: options.finish ?? "stop" }
      : { text, index: 0 },
  );
  if (options.usage !== undefined) pieces.push({ text: "", index: 0, usage: options.usage });
  return {
    requestId: options.requestId ?? "req-1",
    headers: options.headers ?? {},
    async *[Symbol.asyncIterator]() {
      try {
        for (const piece of pieces) {
          await pause(options.delayMs ?? 0, options.signal);
          yield piece;
        }
        if (options.error !== undefined) throw options.error;
      } finally {
        options.onEnd?.();
      }
    },
  };
}

function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(new DOMException("This operation was aborted", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, milliseconds);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}
