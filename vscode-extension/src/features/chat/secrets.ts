/** Whether a file's name says that it holds keys or passwords: such a file is never sent with a question. */

import ignore from "ignore";
import { SECRET_NAMES } from "../workspace/secrets";

const RULES = ignore().add([...SECRET_NAMES]);

/** Any path, relative or not, of any system; also one that leads out of the workspace. */
export function isSecretPath(path: string): boolean {
  const parts = path
    .replaceAll("\\", "/")
    .split("/")
    .filter((part) => part !== "" && part !== "." && part !== ".." && !/^[A-Za-z]:$/.test(part));
  return parts.length > 0 && RULES.ignores(parts.join("/"));
}
