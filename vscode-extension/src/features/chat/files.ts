/** The folder where conversations are kept, as the store sees it. */

import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Named texts. Names are the store's own: no separators. */
export interface Files {
  list(): Promise<readonly string[]>;
  /** Undefined: there is none. */
  read(name: string): Promise<string | undefined>;
  /** All of it or nothing: a crash leaves the old text. */
  write(name: string, text: string): Promise<void>;
  remove(name: string): Promise<void>;
  move(from: string, to: string): Promise<void>;
}

/** Files in a folder, which is made when something is first written. Only this user may read them. */
export function filesIn(folder: string): Files {
  let count = 0;
  return {
    async list() {
      return (await unlessMissing(readdir(folder))) ?? [];
    },
    read(name) {
      return unlessMissing(readFile(join(folder, name), "utf8"));
    },
    async write(name, text) {
      await mkdir(folder, { recursive: true });
      const temporary = join(folder, `${name}.${process.pid}-${count++}.tmp`);
      try {
        await writeFile(temporary, text, { encoding: "utf8", mode: 0o600 });
        await rename(temporary, join(folder, name));
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    },
    remove(name) {
      return rm(join(folder, name), { force: true });
    },
    async move(from, to) {
      await unlessMissing(rename(join(folder, from), join(folder, to)));
    },
  };
}

async function unlessMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
