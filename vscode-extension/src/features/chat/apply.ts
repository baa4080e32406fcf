/** To which file a code block of an answer belongs. Pure; says why, and says when it is not sure. */

import type { BlockPlace, Mention } from "./protocol";

export interface Target {
  /** Relative to the workspace, with `/`. */
  readonly path: string;
  readonly why: string;
  /** The block's text without a first line that only names the file. */
  readonly code: string;
}

export interface Clues {
  /** The whole answer: what stands above the block may name the file. */
  readonly answer: string;
  /** Files sent with the question and the ones before it, the latest first. */
  readonly sent: readonly string[];
  /** The active file; undefined: none, or outside the workspace. */
  readonly active: string | undefined;
}

/** Undefined: nothing tells; let the person choose. */
export function targetOf(block: BlockPlace, clues: Clues): Target | undefined {
  const comment = pathInComment(block.code);
  const code = comment === undefined ? block.code : block.code.slice(block.code.indexOf("\n") + 1);
  const named = clean(block.path);
  if (named !== undefined)
    return { path: full(named, clues), why: "the answer names it", code: same(comment, named) ? code : block.code };
  const above = pathAbove(clues.answer, block);
  if (above !== undefined) {
    return {
      path: full(above, clues),
      why: "the answer names it above the code",
      code: same(comment, above) ? code : block.code,
    };
  }
  if (comment !== undefined) return { path: full(comment, clues), why: "the code's first line names it", code };
  const fitting = unique(clues.sent).filter((path) => fits(path, block.language));
  const only = fitting[0];
  if (fitting.length === 1 && only !== undefined)
    return { path: only, why: "the only such file in the question", code: block.code };
  const { active } = clues;
  if (active !== undefined && fits(active, block.language) && (fitting.length === 0 || fitting.includes(active))) {
    return { path: active, why: "the active file", code: block.code };
  }
  return undefined;
}

/** A path that does not lead out of the workspace, without `./`; undefined: it does, or it is none. */
export function clean(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  const slashed = path
    .trim()
    .replaceAll("\\", "/")
    .replace(/^(?:\.\/)+/, "")
    .replace(/^[ab]\/(?=src\/)/, "");
  if (slashed === "" || slashed.length > 400 || /^(?:\/|[A-Za-z]:|~)/.test(slashed) || /[\n\r\0<>|"*?]/.test(slashed))
    return undefined;
  const parts: string[] = [];
  for (const part of slashed.split("/")) {
    if (part === "..") {
      if (parts.pop() === undefined) return undefined;
    } else if (part !== "." && part !== "") parts.push(part);
  }
  // What git runs by itself is not for an answer to write.
  if (parts.some((part) => part.toLowerCase() === ".git")) return undefined;
  return parts.length === 0 || slashed.endsWith("/") ? undefined : parts.join("/");
}

/** `src/a.ts`, `**a.ts**:`, `File: a.ts`, `### a.ts` in the last line of text above the block. */
function pathAbove(answer: string, block: BlockPlace): string | undefined {
  const at = beginOf(answer, block);
  if (at < 0) return undefined;
  const lines = answer.slice(0, at).split("\n");
  for (let back = lines.length - 1; back >= Math.max(0, lines.length - 4); back--) {
    const line = (lines[back] ?? "").trim();
    if (line === "") continue;
    if (/^(`{3,}|~{3,})/.test(line)) return undefined;
    return clean(pathIn(line));
  }
  return undefined;
}

/** Where the block's fence begins: by its text, else by its number. */
function beginOf(answer: string, block: BlockPlace): number {
  const lines = answer.split("\n");
  const starts: { at: number; code: string }[] = [];
  let offset = 0;
  let open: { mark: string; at: number; body: string[] } | undefined;
  for (const line of lines) {
    const fence = /^\s*(`{3,}|~{3,})(.*)$/.exec(line);
    const mark = fence?.[1] ?? "";
    if (open === undefined) {
      if (mark !== "") open = { mark, at: offset, body: [] };
    } else if (mark.startsWith(open.mark) && (fence?.[2] ?? "").trim() === "") {
      starts.push({ at: open.at, code: open.body.join("\n") });
      open = undefined;
    } else open.body.push(line);
    offset += line.length + 1;
  }
  if (open !== undefined) starts.push({ at: open.at, code: open.body.join("\n") });
  const wanted = squeezed(block.code);
  const numbered = starts[block.block];
  if (numbered !== undefined && squeezed(numbered.code) === wanted) return numbered.at;
  return (starts.find((each) => squeezed(each.code) === wanted) ?? numbered)?.at ?? -1;
}

function squeezed(text: string): string {
  return text.replace(/\s+/g, "");
}

const PATH =
  /(?:[\w@.()[\]+-]+[\\/])*[\w@.()[\]+-]*\.\w{1,10}|(?:[\w@.-]+\/)*(?:Makefile|Dockerfile|Justfile|Jenkinsfile)/;

function pathIn(line: string): string | undefined {
  const code = /[`*]{1,3}([^`*\s][^`*]*)[`*]{1,3}/.exec(line)?.[1];
  if (code !== undefined && new RegExp(`^(?:${PATH.source})$`).test(code.trim())) return code.trim();
  const bare = new RegExp(`^(?:[#>*\\s-]*)(?:(?:file|path|datei|in)\\s*:?\\s+)?(${PATH.source})\\s*:?$`, "i").exec(
    line,
  );
  return bare?.[1];
}

/** A first line that is a comment with nothing but a path. */
export function pathInComment(code: string): string | undefined {
  const line = code.split("\n", 1)[0]?.trim() ?? "";
  const inner = /^(?:\/\/|#|--|;|%|"|'|<!--|\/\*)\s*(.*?)\s*(?:-->|\*\/)?$/.exec(line)?.[1];
  if (inner === undefined || line.startsWith("#!")) return undefined;
  const found = new RegExp(`^(?:(?:file|filename|path)\\s*:\\s*)?(${PATH.source})$`, "i").exec(inner)?.[1];
  return clean(found);
}

/** The answer may have said `a.ts` for a file that was sent as `src/a.ts`. */
function full(path: string, clues: Clues): string {
  const known = unique([...clues.sent, ...(clues.active === undefined ? [] : [clues.active])]);
  if (known.includes(path)) return path;
  const longer = known.filter((each) => each.endsWith(`/${path}`));
  return longer.length === 1 ? (longer[0] ?? path) : path;
}

function same(comment: string | undefined, path: string): boolean {
  const other = clean(path);
  return (
    comment !== undefined &&
    other !== undefined &&
    (comment === other || other.endsWith(`/${comment}`) || comment.endsWith(`/${other}`))
  );
}

function unique(paths: readonly string[]): readonly string[] {
  return [...new Set(paths)];
}

const ENDINGS: Readonly<Record<string, string>> = {
  ts: "ts typescript mts cts",
  mts: "ts typescript mts",
  cts: "ts typescript cts",
  tsx: "tsx typescriptreact ts typescript",
  js: "js javascript mjs cjs",
  mjs: "js javascript mjs",
  cjs: "js javascript cjs",
  jsx: "jsx javascriptreact js javascript",
  py: "py python python3",
  rs: "rs rust",
  rb: "rb ruby",
  sh: "sh bash shell zsh",
  md: "md markdown",
  yml: "yml yaml",
  yaml: "yml yaml",
  cs: "cs csharp c#",
  cc: "cpp c++ cc",
  cpp: "cpp c++ cc",
  hpp: "cpp c++ hpp",
  h: "c cpp c++ h",
  kt: "kt kotlin",
  go: "go golang",
  htm: "html",
};

/** Whether a block in this language may belong to a file with this ending. Without a language: yes. */
export function fits(path: string, language: string): boolean {
  if (language === "" || language === "text" || language === "plaintext") return true;
  if (["diff", "patch", "console", "shell-session"].includes(language)) return false;
  const ending = path.slice(path.lastIndexOf(".") + 1).toLowerCase();
  const names = ENDINGS[ending]?.split(" ");
  return names === undefined ? language === ending || !isKnown(language) : names.includes(language);
}

function isKnown(language: string): boolean {
  return (
    Object.values(ENDINGS).some((names) => names.split(" ").includes(language)) ||
    ["json", "html", "css", "java", "c"].includes(language)
  );
}

/** The paths of files that were sent: from the titles of blocks. */
export function sentPaths(mentions: readonly Mention[]): readonly string[] {
  const files = mentions.filter(({ kind }) => kind === "file" || kind === "selection" || kind === "symbol");
  return files.map((mention) => mention.detail.replace(/(?::\d+(?:-\d+)?|#L\d+.*)$/, "")).filter((path) => path !== "");
}
