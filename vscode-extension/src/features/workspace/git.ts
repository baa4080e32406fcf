/** Asks the `git` command: bounded in time and output, at the user's settings, without a lock or a prompt. */

import { execFile } from "node:child_process";

/** What git said. `missing`: there is no git command. */
export interface GitAnswer {
  readonly status: number;
  readonly out: Buffer;
  readonly error: string;
  readonly missing: boolean;
}

export type Git = (
  folder: string,
  words: readonly string[],
  signal?: AbortSignal,
  input?: string,
) => Promise<GitAnswer>;

const LIMIT_MS = 60_000;
const OUTPUT_LIMIT = 64 << 20;
/** These would point git at another repository. */
const ELSEWHERE = [
  "GIT_DIR",
  "GIT_WORK_TREE",
  "GIT_INDEX_FILE",
  "GIT_PREFIX",
  "GIT_COMMON_DIR",
  "GIT_OBJECT_DIRECTORY",
  "GIT_CEILING_DIRECTORIES",
];

/** Runs `git` in a folder. Never throws, but for an AbortError. */
export const runGit: Git = (folder, words, signal, input) =>
  new Promise((resolve, reject) => {
    const environment: NodeJS.ProcessEnv = {
      ...process.env,
      GIT_OPTIONAL_LOCKS: "0",
      GIT_TERMINAL_PROMPT: "0",
      LC_ALL: "C",
    };
    for (const name of ELSEWHERE) delete environment[name];
    const child = execFile(
      "git",
      ["--no-pager", "-c", "core.quotepath=off", "-c", "core.fsmonitor=false", ...words],
      {
        cwd: folder,
        env: environment,
        encoding: "buffer",
        timeout: LIMIT_MS,
        maxBuffer: OUTPUT_LIMIT,
        windowsHide: true,
        ...(signal ? { signal } : {}),
      },
      (error, out, told) => {
        if (error?.name === "AbortError") {
          reject(error);
          return;
        }
        const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        const words = told.toString("utf8").trim();
        resolve({
          status,
          out,
          error: words || (error === null ? "" : error.killed ? "no answer within a minute" : error.message),
          missing: error?.code === "ENOENT",
        });
      },
    );
    child.stdin?.on("error", () => {}); // it ended before it read: its status says so
    child.stdin?.end(input ?? "");
  });

/** Names that end in NUL. Those that are not UTF-8 are left out, and counted. */
export function namesOf(out: Buffer): { readonly names: readonly string[]; readonly odd: number } {
  const names: string[] = [];
  let odd = 0;
  let start = 0;
  for (let end = out.indexOf(0); end >= 0; end = out.indexOf(0, start)) {
    const name = out.toString("utf8", start, end);
    if (name.includes("\ufffd")) odd += 1;
    else if (name) names.push(name);
    start = end + 1;
  }
  return { names, odd };
}
