/** The folder where conversations are kept, as the store sees it. */

import { mkdir, readdir, readFile, realpath, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, relative, sep } from "node:path";

/** Named texts. A name that leads elsewhere is an error. */
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
  // Names hold ids, and ids come from the page.
  const at = (name: string): string => {
    if (basename(name) !== name || name.startsWith(".")) throw new Error(`“${name.slice(0, 80)}” is no conversation`);
    return join(folder, name);
  };
  return {
    async list() {
      return (await unlessMissing(readdir(folder))) ?? [];
    },
    async read(name) {
      return unlessMissing(readFile(at(name), "utf8"));
    },
    async write(name, text) {
      const temporary = `${at(name)}.${process.pid}-${count++}.tmp`;
      await mkdir(folder, { recursive: true });
      try {
        await writeFile(temporary, text, { encoding: "utf8", mode: 0o600 });
        await rename(temporary, at(name));
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    },
    async remove(name) {
      await rm(at(name), { force: true });
    },
    async move(from, to) {
      await unlessMissing(rename(at(from), at(to)));
    },
  };
}

/**
 * Whether a file stays in a folder, and out of `.git`, when links are followed; one that is not there yet is judged by
 * the folder that it would be made in.
 */
export async function staysIn(folder: string, file: string): Promise<boolean> {
  let there = file;
  let real = await unlessMissing(realpath(there));
  while (real === undefined && dirname(there) !== there) {
    there = dirname(there);
    real = await unlessMissing(realpath(there));
  }
  const way = relative(await realpath(folder), join(real ?? there, relative(there, file)));
  return !isAbsolute(way) && !way.split(sep).some((part) => part === ".." || part.toLowerCase() === ".git");
}

async function unlessMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
