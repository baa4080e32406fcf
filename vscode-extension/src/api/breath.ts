/** Work in pieces, so that the editor's extension host is never blocked for long. */

import { aborted } from "./faults";

/** Milliseconds of work without a pause. */
const PIECE_MS = 8;

/** Call `due()` in a long loop; when it is true, `await breath.take()`. */
export class Breath {
  #since = performance.now();

  due(): boolean {
    return performance.now() - this.#since >= PIECE_MS;
  }

  /** Lets everybody else have a turn. Throws an AbortError when the signal was aborted. */
  async take(signal?: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    stopIfAborted(signal);
    this.#since = performance.now();
  }
}

/** Throws an AbortError when the signal was aborted. */
export function stopIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw aborted();
}

/** `work` for each item, `width` at a time; the first error ends it. */
export async function forEach<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  const breath = new Breath();
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const item = items[next++] as T;
      try {
        stopIfAborted(signal);
        await work(item);
        if (breath.due()) await breath.take(signal);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const done = await Promise.allSettled(Array.from({ length: Math.min(width, items.length) }, worker));
  for (const one of done) if (one.status === "rejected") throw one.reason;
}

/** Waits so many milliseconds, or until the signal is aborted: an AbortError then. */
export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(aborted());
      return;
    }
    const stop = (): void => {
      clearTimeout(timer);
      reject(aborted());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
