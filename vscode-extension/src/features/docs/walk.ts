/** The documents of a folder, found within limits; `list` reads one folder, so that it works on any file system. */

import { type Entry, isDocument, isSkipped } from "./pack";

export interface Listed {
  readonly name: string;
  readonly kind: "file" | "folder" | "other";
}

export interface FolderReader {
  /** What stands in a folder; the path is relative with `/`, "" for the folder itself. */
  list(path: string): Promise<readonly Listed[]>;
  /** Bytes; undefined where the file is gone. */
  size(path: string): Promise<number | undefined>;
}

export interface WalkLimits {
  readonly folders: number;
  readonly files: number;
  readonly depth: number;
}

const WALK_LIMITS: WalkLimits = { folders: 10_000, files: 20_000, depth: 30 };

/** The documents in a folder, and whether that is all: `cut` says which limit it ran into. Links are not followed. */
export async function walk(
  reader: FolderReader,
  signal: AbortSignal,
  limits: WalkLimits = WALK_LIMITS,
): Promise<{ readonly entries: readonly Entry[]; readonly cut: string | undefined }> {
  const entries: Entry[] = [];
  const waiting: { path: string; depth: number }[] = [{ path: "", depth: 0 }];
  let folders = 0;
  let cut: string | undefined;
  for (let here = waiting.shift(); here !== undefined; here = waiting.shift()) {
    signal.throwIfAborted();
    folders += 1;
    if (folders > limits.folders) return { entries, cut: `only the first ${limits.folders} folders were looked at` };
    const listed = await listOrNothing(reader, here.path);
    for (const { name, kind } of listed) {
      const path = here.path === "" ? name : `${here.path}/${name}`;
      if (kind === "folder" && !isSkipped(name)) {
        if (here.depth < limits.depth) waiting.push({ path, depth: here.depth + 1 });
        else cut = `folders more than ${limits.depth} deep were not looked at`;
      } else if (kind === "file" && isDocument(name)) {
        if (entries.length >= limits.files) return { entries, cut: `only the first ${limits.files} files were found` };
        const size = await reader.size(path);
        if (size !== undefined) entries.push({ path, size });
      }
    }
  }
  return { entries, cut };
}

/** A folder inside that may not be read holds nothing for us; the first one must be readable. */
async function listOrNothing(reader: FolderReader, path: string): Promise<readonly Listed[]> {
  try {
    return await reader.list(path);
  } catch (error) {
    if (path === "") throw error;
    return [];
  }
}
