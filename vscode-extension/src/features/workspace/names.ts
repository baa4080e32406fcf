/** What a folder is called on the server, and where a file lies in it. Pure. */

import { createHash } from "node:crypto";
import { basename, isAbsolute, relative, sep } from "node:path";

const LONGEST = 64;
const SUFFIX = 6;

/** A name that the server takes: letters, digits, `.`, `_`, `-`, the first one a letter or digit. As `aicockpit watch` makes it. */
export function plainName(text: string): string {
  const made = text.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-._]+/, "");
  return made.slice(0, LONGEST) || "workspace";
}

/** `wanted` (the setting) as it is, else the folder's own name; of two folders of one name the later has a suffix. */
export function workspaceName(wanted: string, folder: string, taken: ReadonlySet<string>): string {
  const name = plainName(wanted.trim() || basename(folder));
  return taken.has(name) ? suffixed(name, folder) : name;
}

/** The name with a mark of the folder's path: the same folder always gets the same one. */
export function suffixed(name: string, folder: string): string {
  const mark = createHash("sha256").update(folder).digest("hex").slice(0, SUFFIX);
  return `${name.slice(0, LONGEST - SUFFIX - 1)}-${mark}`;
}

/** A path in a folder, with `/`; undefined when it is not inside. */
export function pathIn(folder: string, file: string): string | undefined {
  const found = relative(folder, file).split(sep).join("/");
  if (found === "" || found === ".." || found.startsWith("../") || isAbsolute(found)) return undefined;
  return found;
}

/** Is what the server has under a name this folder? Its number of files tells: a tenth apart at most. */
export function looksLike(there: number, here: number): boolean {
  return there > 0 && Math.abs(there - here) <= Math.max(2, 0.1 * Math.max(there, here));
}
