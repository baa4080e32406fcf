/** What to tell a server that knows one state of the files, so that it knows another. Pure. */

import { Breath } from "../../api/breath";
import type { ManifestFile } from "../../api/gateway";
import type { Entry } from "./entry";

/** One manifest. `base` null: `files` is the complete list. `sent`: the hash told of each path, undefined for a removed one. */
export interface Batch {
  readonly base: number | null;
  readonly files: readonly ManifestFile[];
  readonly removed: readonly string[];
  readonly sent: ReadonlyMap<string, string | undefined>;
}

/** The row of one file. */
export function row(path: string, entry: Entry): ManifestFile {
  return [path, entry.hash, entry.size, entry.mtimeNs];
}

/** The complete list, made in pieces. */
export async function complete(entries: ReadonlyMap<string, Entry>): Promise<Batch> {
  const files: ManifestFile[] = [];
  const sent = new Map<string, string | undefined>();
  const breath = new Breath();
  for (const [path, entry] of entries) {
    if (!entry.why) {
      files.push(row(path, entry));
      sent.set(path, entry.hash);
    }
    if (breath.due()) await breath.take();
  }
  return { base: null, files, removed: [], sent };
}

/** What differs among `paths` from what was told; undefined when nothing does. */
export function difference(
  base: number,
  told: ReadonlyMap<string, string>,
  entries: ReadonlyMap<string, Entry>,
  paths: Iterable<string>,
): Batch | undefined {
  const files: ManifestFile[] = [];
  const removed: string[] = [];
  const sent = new Map<string, string | undefined>();
  for (const path of [...new Set(paths)].sort()) {
    const entry = entries.get(path);
    const now = entry === undefined || entry.why ? undefined : entry;
    if (now?.hash === told.get(path)) continue;
    sent.set(path, now?.hash);
    if (now === undefined) removed.push(path);
    else files.push(row(path, now));
  }
  return sent.size ? { base, files, removed, sent } : undefined;
}
