/** Follows a source on the server until it is read: asks now and then, tells of each change. */

import { sleep } from "../../api/breath";
import { Fault, isAbort } from "../../api/fault";
import type { DocSource, Gateway } from "../../api/gateway";
import { isWorking } from "./sources";

export interface FollowOptions {
  readonly everyMs?: number;
  /** Faults in a row after which it is given up; the server may be restarted meanwhile. */
  readonly faults?: number;
  readonly wait?: (ms: number, signal: AbortSignal) => Promise<void>;
}

const EVERY_MS = 700;
const FAULTS = 40;
const PASSING = new Set(["refused", "unreachable", "dns", "busy", "server", "proxy"]);

/** The source at its end; undefined when it was removed, or `signal` was aborted. A passing fault is waited out. */
export async function follow(
  gateway: Pick<Gateway, "doc">,
  id: string,
  tell: (source: DocSource) => void,
  signal: AbortSignal,
  options: FollowOptions = {},
): Promise<DocSource | undefined> {
  const wait = options.wait ?? sleep;
  let faults = 0;
  while (!signal.aborted) {
    try {
      const source = await gateway.doc(id);
      faults = 0;
      if (source === undefined || signal.aborted) return undefined;
      tell(source);
      if (!isWorking(source)) return source;
    } catch (error) {
      faults += 1;
      if (!(error instanceof Fault) || !PASSING.has(error.kind) || faults >= (options.faults ?? FAULTS)) throw error;
    }
    await wait(options.everyMs ?? EVERY_MS, signal).catch(unlessAbort);
  }
  return undefined;
}

function unlessAbort(error: unknown): void {
  if (!isAbort(error)) throw error;
}
